// Phase-boot boots a machine into the newest signed release of a channel. As PID 1 of an initramfs
// it runs the whole boot; on any host, `phase-boot fetch` fetches and verifies the release's files.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/phaseboot/phaseboot/bootclient/machine"
	"github.com/phaseboot/phaseboot/internal/cli"
)

const usage = `phase-boot boots a machine into the newest signed release of a channel.

Usage:
  phase-boot fetch --root root.json --channel C --arch A [flags] --out DIR
        fetch and verify a release to a folder, on any host; see 'phase-boot fetch --help'
  phase-boot seed --root root.json --cache DIR [flags]
        serve the release in a cache to other machines; see 'phase-boot seed --help'
  phase-boot watch [flags]
        in a running target: fetch the next release ahead; see 'phase-boot watch --help'
  phase-boot switch [flags]
        in a running target: start the next release (kexec); see 'phase-boot switch --help'
  phase-boot report [flags]
        in a running target: send the report of the boot to the publisher
  phase-boot status | network | dmesg | save | retry
        in the shell of a machine after a failed boot: show the last attempt, the network, the
        messages of the kernel; save the report; start the next attempt
  phase-boot bless
        in the target: say that the system works; see 'phase-boot bless --help'
  phase-boot help VERB | VERB --help
  phase-boot version | --version
  phase-boot        as PID 1 of an initramfs: runs the role that /etc/phase/role names
  phase-boot boot   the child process of PID 1 that runs one attempt of a boot

With --json, the result is one JSON object on stdout and an error is one JSON object on stderr.
Exit codes: 0 done, 1 failed, 2 usage, 3 untrusted, 4 not found, 5 corrupt, 130 interrupted.
`

func main() {
	os.Exit(run())
}

// run returns the exit code. As the first process of a machine it never returns.
func run() int {
	if machine.FirstProcess() {
		machine.Init()
	}
	ctx, stop := cli.Interruptible()
	defer stop()
	err := command(ctx, os.Args[1:], os.Stdout)
	if err != nil && ctx.Err() != nil {
		err = context.Canceled
	}
	cli.Report(os.Stderr, "phase-boot", err, cli.WantsJSON(os.Args[1:]))
	return cli.Code(err)
}

func command(ctx context.Context, args []string, out io.Writer) error {
	flags := newFlags("phase-boot")
	version := flags.Bool("version", false, "")
	flags.Bool("json", false, "")
	switch err := flags.Parse(args); {
	case err == flag.ErrHelp:
		_, err = io.WriteString(out, usage)
		return err
	case err != nil:
		return cli.Usagef("%v; see 'phase-boot --help'", cli.StdFlag(flags, err))
	case *version && flags.NArg() > 0:
		return cli.Usagef("unexpected argument %.80q; see 'phase-boot --help'", flags.Arg(0))
	case *version:
		return printVersion(out, args)
	}
	verb, rest := flags.Arg(0), flags.Args()
	switch verb {
	case "fetch":
		return fetch(ctx, rest[1:])
	case "seed":
		return seed(ctx, rest[1:])
	case "deadline": // of PID 1 of the target alone
		if n, err := strconv.ParseUint(flags.Arg(1), 10, 32); err == nil && flags.NArg() == 2 {
			return machine.Deadline(time.Duration(n)*time.Second, out)
		}
	case "report":
		return sendReport(ctx, rest[1:])
	case "watch":
		return watchNext(ctx, rest[1:], out)
	case "switch":
		return switchNext(ctx, rest[1:], out)
	case "help":
		return help(ctx, rest[1:], out)
	case "":
		return cli.Usagef("no verb: name fetch, seed, watch, switch or version; see 'phase-boot --help'")
	}
	if plain, ok := plainVerbs[verb]; ok {
		return plain.command(ctx, verb, args, rest[1:], out)
	}
	return cli.Usagef("unknown verb %.40q%s; see 'phase-boot --help'", verb, cli.Suggest(verb, []string{"fetch", "seed", "watch", "switch", "report", "bless", "status", "network", "dmesg", "save", "retry", "version", "help"}))
}

// help prints the help of phase-boot, or of the named verb.
func help(ctx context.Context, rest []string, out io.Writer) error {
	switch {
	case len(rest) == 0:
		_, err := io.WriteString(out, usage)
		return err
	case len(rest) > 1:
		return cli.Usagef("unexpected argument %.80q; see 'phase-boot --help'", rest[1])
	case rest[0] == "help" || strings.HasPrefix(rest[0], "-"):
		return help(ctx, nil, out)
	}
	return command(ctx, []string{rest[0], "--help"}, out)
}

// printVersion prints the version of this program, as one JSON object with --json.
func printVersion(out io.Writer, args []string) error {
	if !cli.WantsJSON(args) {
		_, err := fmt.Fprintln(out, "phase-boot", cli.Version())
		return err
	}
	return json.NewEncoder(out).Encode(map[string]string{"version": cli.Version()})
}

// childOfInit reports whether this is a child of phase-boot as PID 1. Nothing else may mount file
// systems, change the network and load a kernel.
func childOfInit() bool { return os.Getppid() == 1 && os.Getuid() == 0 && machine.Initramfs() }

// boot runs one attempt of a boot.
func boot(ctx context.Context, choice machine.Choice) error {
	if err := machine.Boot(ctx, choice); err != nil {
		os.Exit(cli.Code(err)) // PID 1 prints the error
	}
	return nil
}
