package main

import (
	"context"
	"flag"
	"fmt"
	"io"

	"github.com/phaseboot/phaseboot/bootclient/machine"
	"github.com/phaseboot/phaseboot/internal/cli"
)

// A plainVerb is a verb without arguments.
type plainVerb struct {
	usage string // what --help prints
	json  bool   // it accepts --json
	run   func(ctx context.Context, args []string, out io.Writer) error
}

// plainVerbs maps names to the verbs without arguments.
var plainVerbs = map[string]plainVerb{
	"boot":    {usage: bootUsage, run: func(ctx context.Context, _ []string, _ io.Writer) error { return boot(ctx) }},
	"watch":   {usage: watchUsage, run: func(ctx context.Context, _ []string, _ io.Writer) error { return watch(ctx) }},
	"status":  {usage: statusUsage, run: func(_ context.Context, _ []string, out io.Writer) error { return status(out) }},
	"retry":   {usage: retryUsage, run: func(context.Context, []string, io.Writer) error { return retry() }},
	"version": {usage: versionUsage, json: true, run: func(_ context.Context, args []string, out io.Writer) error { return printVersion(out, args) }},
}

const bootUsage = `phase-boot boot runs one attempt of a boot: network, search, verification, fetch, kexec. PID 1
of an initramfs starts it; it refuses to run anywhere else. On a host, 'phase-boot fetch'
fetches and verifies the files of a release.

Usage:
  phase-boot boot

Examples:
  phase-boot fetch --root root.json --mode local --out release
`

const watchUsage = `phase-boot watch waits until a missing network card or cable is plugged in, and loads the
drivers of new devices. PID 1 of an initramfs starts it after a failed boot, while the
shells are open; it refuses to run anywhere else.

Usage:
  phase-boot watch

Examples:
  phase-boot retry    # in the shell: start the next attempt at once
`

const statusUsage = `phase-boot status shows the steps and sources of the last attempt of a failed boot, and why it
failed. Run it in the shell that the machine opens then.

Usage:
  phase-boot status

Examples:
  phase-boot status
`

const retryUsage = `phase-boot retry starts the next attempt of a failed boot. Run it in the shell that the machine
opens then.

Usage:
  phase-boot retry

Examples:
  phase-boot retry
`

const versionUsage = `phase-boot version prints the version of this program.

Usage:
  phase-boot version [--json]

Examples:
  phase-boot version
  phase-boot version --json

Flags:
`

// command refuses arguments and runs the verb. all is the whole command line, rest the arguments after
// the verb.
func (v plainVerb) command(ctx context.Context, verb string, all, rest []string, out io.Writer) error {
	set := flag.NewFlagSet("phase-boot "+verb, flag.ContinueOnError)
	set.SetOutput(io.Discard)
	if v.json {
		set.Bool("json", false, "print the result as one JSON object")
	}
	help, err := parse(set, rest, verb, v.usage, func(rest []string) error {
		if len(rest) > 0 {
			return fmt.Errorf("unexpected argument %.80q", rest[0])
		}
		return nil
	})
	if help || err != nil {
		return err
	}
	return v.run(ctx, all, out)
}

// status prints the last attempt of a failed boot.
func status(out io.Writer) error {
	if !machine.Initramfs() {
		return cli.Usagef("status: runs only in the shell that a machine opens after a failed boot")
	}
	return machine.Status(out)
}

// retry asks PID 1 for the next attempt.
func retry() error {
	if !machine.Initramfs() {
		return cli.Usagef("retry: runs only in the shell that a machine opens after a failed boot")
	}
	return machine.RequestRetry()
}
