// Phase-boot boots a machine into the newest signed release of a channel. As
// PID 1 of an initramfs it is the whole boot; on any host, `phase-boot fetch` does
// the same up to the files.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/phaseboot/phaseboot/bootclient/machine"
	"github.com/phaseboot/phaseboot/internal/cli"
)

const usage = `phase-boot boots a machine into the newest signed release of a channel.

Usage:
  phase-boot fetch --root root.json --channel C --arch A [flags] --out DIR
        everything but the jump, on any host; see 'phase-boot fetch --help'
  phase-boot seed --root root.json --cache DIR [flags]
        serve what a cache holds to other machines; see 'phase-boot seed --help'
  phase-boot status | retry
        in the shell of a machine whose boot was refused: what was tried, and the next attempt
  phase-boot help VERB | VERB --help
  phase-boot version | --version
  phase-boot        as PID 1: /etc/phase/role says which part it plays
  phase-boot boot   the child of PID 1, which does the work of a boot

With --json a result is one JSON object on stdout, and an error one on stderr.
Exit codes: 0 done, 1 failed, 2 usage, 3 untrusted, 4 not found, 5 corrupt, 130 interrupted.
`

func main() {
	os.Exit(run())
}

// run is main; as the first process of a machine it never returns.
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
	flags := flag.NewFlagSet("phase-boot", flag.ContinueOnError)
	flags.SetOutput(io.Discard)
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
	case "help":
		return help(ctx, rest[1:], out)
	case "":
		return cli.Usagef("name a verb: fetch, seed or version; see 'phase-boot --help'")
	}
	if plain, ok := plainVerbs[verb]; ok {
		return plain.command(ctx, verb, args, rest[1:], out)
	}
	return cli.Usagef("unknown verb %.40q%s; see 'phase-boot --help'", verb, cli.Suggest(verb, []string{"fetch", "seed", "status", "retry", "version", "help"}))
}

// help prints the help of phase-boot, or of the one verb that is named.
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

// printVersion says which version this is, in words or, with --json, as one object.
func printVersion(out io.Writer, args []string) error {
	if !cli.WantsJSON(args) {
		_, err := fmt.Fprintln(out, "phase-boot", cli.Version())
		return err
	}
	return json.NewEncoder(out).Encode(map[string]string{"version": cli.Version()})
}

// boot refuses to run anywhere but below phase-boot as PID 1: it mounts, changes
// the network and replaces the kernel.
func boot(ctx context.Context) error {
	if os.Getppid() != 1 || os.Getuid() != 0 || !machine.Initramfs() {
		return cli.Usagef("boot is the child of phase-boot as PID 1 of an initramfs; use 'phase-boot fetch' on a host")
	}
	if err := machine.Boot(ctx); err != nil {
		os.Exit(cli.Code(err)) // PID 1 says why, once
	}
	return nil
}

// watch is PID 1's look-out for a network card beside the shells of a refused boot.
func watch(ctx context.Context) error {
	if os.Getppid() != 1 || os.Getuid() != 0 || !machine.Initramfs() {
		return cli.Usagef("watch is a child of phase-boot as PID 1 of an initramfs; nobody else needs it")
	}
	return machine.Watch(ctx)
}
