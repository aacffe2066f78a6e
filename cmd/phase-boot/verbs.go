package main

import (
	"context"
	"fmt"
	"io"

	"github.com/phaseboot/phaseboot/bootclient/machine"
	"github.com/phaseboot/phaseboot/internal/cli"
)

// A plainVerb is a verb without arguments.
type plainVerb struct {
	usage string      // what --help prints
	json  bool        // it accepts --json
	here  func() bool // reports whether it may run here; nil: everywhere
	only  string      // where it may run
	run   func(ctx context.Context, args []string, out io.Writer) error
}

const inShell = "in the shell that a machine opens after a failed boot"

// plainVerbs maps names to the verbs without arguments.
var plainVerbs = map[string]plainVerb{
	"boot": {
		usage: bootUsage, here: childOfInit, only: "as a child of PID 1 in an initramfs; use 'phase-boot fetch' on a host",
		run: func(ctx context.Context, _ []string, _ io.Writer) error { return boot(ctx) },
	},
	"watch": {
		usage: watchUsage, here: childOfInit, only: "as a child of PID 1 in an initramfs",
		run: func(ctx context.Context, _ []string, _ io.Writer) error { return machine.Watch(ctx) },
	},
	"status": {
		usage: statusUsage, here: machine.Initramfs, only: inShell,
		run: func(_ context.Context, _ []string, out io.Writer) error { return machine.Status(out) },
	},
	"retry": {
		usage: retryUsage, here: machine.Initramfs, only: inShell,
		run: func(context.Context, []string, io.Writer) error { return machine.RequestRetry() },
	},
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
	set := newFlags("phase-boot " + verb)
	if v.json {
		set.Bool("json", false, "print the result as one JSON object")
	}
	check := func(rest []string) error {
		if len(rest) > 0 {
			return fmt.Errorf("unexpected argument %.80q", rest[0])
		}
		return nil
	}
	return runVerb(set, rest, v.usage, check, func() error {
		if v.here != nil && !v.here() {
			return cli.Usagef("%s: runs only %s", verb, v.only)
		}
		return v.run(ctx, all, out)
	})
}
