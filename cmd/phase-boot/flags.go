package main

import (
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"

	"github.com/phaseboot/phaseboot/internal/bootfile"
	"github.com/phaseboot/phaseboot/internal/cli"
	"github.com/phaseboot/phaseboot/manifest"
)

// parse reads and checks the command line of a verb. If it asks for help, parse prints the help and
// returns true.
func parse(set *flag.FlagSet, args []string, verb, usage string, check func(rest []string) error) (help bool, err error) {
	err = set.Parse(args)
	if errors.Is(err, flag.ErrHelp) {
		fmt.Fprint(os.Stdout, usage)
		set.SetOutput(os.Stdout)
		set.PrintDefaults()
		return true, nil
	}
	if err == nil {
		err = check(set.Args())
	} else {
		err = cli.StdFlag(set, err)
	}
	if err != nil {
		return false, cli.Usagef("%v; see 'phase-boot %s --help'", err, verb)
	}
	return false, nil
}

// readRoot reads the file of --root and checks that it is the root metadata of a repository.
func readRoot(path string) ([]byte, error) {
	data, err := cli.ReadInput(path, "root", manifest.MaxRoot)
	if err != nil {
		return nil, err
	}
	if _, err := manifest.ParseRoot(data); err != nil {
		return nil, fmt.Errorf("--root %s: %w; name the root.json of the repository", path, err)
	}
	return data, nil
}

// checkArch refuses an unknown architecture.
func checkArch(name string) error {
	if err := bootfile.CheckArch(name); err != nil {
		return fmt.Errorf("--arch: %w", err)
	}
	return nil
}

// checkFolder refuses a path that is not a folder. It accepts "".
func checkFolder(flag, path string) error {
	if path == "" {
		return nil
	}
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("%s %s: %w; check the path", flag, path, fs.ErrNotExist)
	case err != nil:
		return fmt.Errorf("%s: %w", flag, err)
	case !info.IsDir():
		return cli.Usagef("%s %s: is not a folder; name another one", flag, path)
	}
	return nil
}
