package main

import (
	"errors"
	"flag"
	"fmt"
	"os"

	"github.com/phaseboot/phaseboot/internal/cli"
)

// parse reads and checks the command line of a verb. When it asks for help, that is printed
// and nothing more is to be done.
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
	}
	if err != nil {
		return false, cli.Usagef("%v; see 'phase-boot %s --help'", err, verb)
	}
	return false, nil
}
