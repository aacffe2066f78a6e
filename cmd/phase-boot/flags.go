package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"os"

	"github.com/phaseboot/phaseboot/internal/bootfile"
	"github.com/phaseboot/phaseboot/internal/cli"
	"github.com/phaseboot/phaseboot/manifest"
)

// newFlags returns an empty set of flags for phase-boot or a verb. It prints nothing by itself.
func newFlags(name string) *flag.FlagSet {
	set := flag.NewFlagSet(name, flag.ContinueOnError)
	set.SetOutput(io.Discard)
	return set
}

// listVar defines a flag that may be repeated.
func listVar(set *flag.FlagSet, list *[]string, name, usage string) {
	set.Func(name, usage, func(s string) error {
		*list = append(*list, s)
		return nil
	})
}

// A releaseChoice has the flags that fetch and seed share. Each defines --mode and --cache with its own help.
type releaseChoice struct {
	root, channel, arch, mode, cache string
	bootstrap                        []string
}

func (f *releaseChoice) define(set *flag.FlagSet) {
	set.StringVar(&f.root, "root", "", "`FILE` with the root metadata, the root of trust")
	set.StringVar(&f.channel, "channel", "stable", "channel `NAME`")
	set.StringVar(&f.arch, "arch", bootfile.HostArch(), "architecture `NAME`: x86_64 or arm64")
	listVar(set, &f.bootstrap, "bootstrap", "`MULTIADDR` with /p2p/ID of a DHT bootstrap peer; may be repeated")
}

// runVerb checks the command line of a verb and runs it. If the command line asks for help, it prints
// the help instead.
func runVerb(set *flag.FlagSet, args []string, usage string, check func(rest []string) error, run func() error) error {
	err := set.Parse(args)
	if errors.Is(err, flag.ErrHelp) {
		fmt.Fprint(os.Stdout, usage)
		set.SetOutput(os.Stdout)
		set.PrintDefaults()
		return nil
	}
	if err == nil {
		err = check(set.Args())
	} else {
		err = cli.StdFlag(set, err)
	}
	if err != nil {
		return cli.Usagef("%v; see '%s --help'", err, set.Name())
	}
	return run()
}

// readRoot reads the file of --root and checks that it is the root metadata of a repository.
func readRoot(path string) ([]byte, error) {
	data, err := cli.ReadMetadata(path, "--root", manifest.KindRoot, "the root.json of the repository")
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
