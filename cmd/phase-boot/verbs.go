package main

import (
	"context"
	"fmt"
	"io"

	"github.com/phaseboot/phaseboot/bootclient/machine"
	"github.com/phaseboot/phaseboot/internal/cli"
)

// A plainVerb is a verb without arguments. One that takes part in an attempt of a boot has the flags of
// a choice of the menu.
type plainVerb struct {
	usage   string      // what --help prints
	json    bool        // it accepts --json
	here    func() bool // reports whether it may run here; nil: everywhere
	only    string      // where it may run
	run     func(ctx context.Context, args []string, out io.Writer) error
	attempt func(ctx context.Context, choice machine.Choice, out io.Writer) error // in place of run
}

const afterFailure = "on a machine after a failed boot"

// plainVerbs maps names to the verbs without arguments.
var plainVerbs = map[string]plainVerb{
	"boot": {
		usage: bootUsage, here: childOfInit, only: "as a child of PID 1 in an initramfs; use 'phase-boot fetch' on a host",
		attempt: func(ctx context.Context, choice machine.Choice, _ io.Writer) error { return boot(ctx, choice) },
	},
	"search": {
		usage: searchUsage, here: childOfInit, only: "as a child of PID 1 in an initramfs",
		attempt: func(ctx context.Context, choice machine.Choice, _ io.Writer) error {
			return machine.Search(ctx, choice)
		},
	},
	"bless": {
		usage: blessUsage,
		run:   func(ctx context.Context, _ []string, out io.Writer) error { return machine.Bless(ctx, out) },
	},
	"save": {
		usage: saveUsage, here: machine.Initramfs, only: afterFailure,
		attempt: func(ctx context.Context, choice machine.Choice, out io.Writer) error {
			return machine.Save(ctx, out, choice)
		},
	},
	"status": {
		usage: statusUsage, here: machine.Initramfs, only: afterFailure,
		run: func(_ context.Context, _ []string, out io.Writer) error { return machine.Status(out) },
	},
	"network": {
		usage: networkUsage, here: machine.Initramfs, only: afterFailure + "; use 'ip address' on a host",
		run: func(_ context.Context, _ []string, out io.Writer) error { return machine.Network(out) },
	},
	"dmesg": {
		usage: dmesgUsage, here: machine.Initramfs, only: afterFailure + "; use 'dmesg' on a host",
		run: func(_ context.Context, _ []string, out io.Writer) error { return machine.KernelMessages(out) },
	},
	"retry": {
		usage: retryUsage, here: machine.Initramfs, only: afterFailure,
		run: func(context.Context, []string, io.Writer) error { return machine.RequestRetry() },
	},
	"version": {usage: versionUsage, json: true, run: func(_ context.Context, args []string, out io.Writer) error { return printVersion(out, args) }},
}

const bootUsage = `phase-boot boot runs one attempt of a boot: network, search, verification, fetch, kexec. PID 1
of an initramfs starts it; it refuses to run anywhere else. On a host, 'phase-boot fetch'
fetches and verifies the files of a release.

Usage:
  phase-boot boot [flags]

Examples:
  phase-boot fetch --root root.json --mode local --out release

Flags:
`

const searchUsage = `phase-boot search runs behind the menu of a failed boot and ends when another attempt can
succeed: a release was found, a missing network card or cable was plugged in, or the clock was
set. It loads the drivers of new devices. PID 1 of an initramfs starts it; it refuses to run
anywhere else.

Usage:
  phase-boot search [flags]

Examples:
  phase-boot retry    # in the shell: start the next attempt at once

Flags:
`

const blessUsage = `phase-boot bless says that the system of the running release works. A release that was signed with
--bless is started three times without that, and then the machine runs an older release. The
unit phase-bless.service runs it after boot-complete.target. It needs root.

Usage:
  phase-boot bless

Examples:
  phase-boot bless    # in a target: /run/phase/phase-boot
`

const saveUsage = `phase-boot save writes the report of the last attempt of a failed boot to the folder reports of
the cache partition, as JSON and as text. Run it in the shell of the machine, or choose it in
the menu. The boot mode must allow a writable cache.

Usage:
  phase-boot save [flags]

Examples:
  phase-boot save

Flags:
`

const networkUsage = `phase-boot network shows the network interfaces of the machine with their addresses, the routes
and the name servers. Run it in the shell of a machine after a failed boot, or choose it in the
menu.

Usage:
  phase-boot network

Examples:
  phase-boot network
`

const dmesgUsage = `phase-boot dmesg shows the last messages of the kernel, which the screen leaves out. Run it in the
shell of a machine after a failed boot, or choose it in the menu. With loglevel=7 on the kernel
command line, the screen shows them during the boot.

Usage:
  phase-boot dmesg

Examples:
  phase-boot dmesg
`

const statusUsage = `phase-boot status shows the steps and sources of the last attempt of a failed boot, and why it
failed. Run it in the shell of the machine, or choose it in the menu.

Usage:
  phase-boot status

Examples:
  phase-boot status
`

const retryUsage = `phase-boot retry starts the next attempt of a failed boot. Run it in the shell of the machine.

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
	var choice machine.Choice
	if v.attempt != nil {
		set.StringVar(&choice.Mode, "mode", "", "boot `MODE` in place of phase.mode= on the kernel command line")
		set.StringVar(&choice.Channel, "channel", "", "channel `NAME` in place of phase.channel=")
		set.BoolVar(&choice.LastGood, "last-good", false, "boot the newest release that this machine has verified before, without a search")
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
		if v.attempt != nil {
			return v.attempt(ctx, choice, out)
		}
		return v.run(ctx, all, out)
	})
}
