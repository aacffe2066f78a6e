package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"

	"github.com/phaseboot/phaseboot/bootclient/machine"
	"github.com/phaseboot/phaseboot/bootclient/report"
)

const switchUsage = `phase-boot switch starts the next release of a running target, without firmware and boot loader
(kexec). It takes the newest release of the cache that the signed rules give to this machine,
verifies metadata and artifacts again, counts the start as a boot does, and loads the kernel.
Then systemd stops the system and the kernel jumps. phase-boot watch fetches releases into the
cache. It needs root. A private mode refuses it.

Usage:
  phase-boot switch [flags]

Examples:
  phase-boot switch --dry-run
  phase-boot switch
  phase-boot switch --release 2.0 --json

Flags:
`

// switchNext runs `phase-boot switch`.
func switchNext(ctx context.Context, args []string, out io.Writer) error {
	var o machine.SwitchOptions
	set := newFlags("phase-boot switch")
	set.StringVar(&o.Release, "release", "", "refuse if the next release is not `VERSION` (default: any)")
	set.BoolVar(&o.DryRun, "dry-run", false, "verify everything and say what would be started; load and write nothing")
	set.BoolVar(&o.Now, "now", false, "jump at once: services are not stopped")
	asJSON := set.Bool("json", false, "print the result as one JSON object on stdout")
	set.StringVar(&o.Dir, "dir", "/run/phase", "`DIR` of the hand-over")
	set.StringVar(&o.Cache, "cache", "", "`DIR` of a cache that may be written (default: the cache partition)")
	check := func(rest []string) error {
		if len(rest) > 0 {
			return fmt.Errorf("unexpected argument %.80q", rest[0])
		}
		return nil
	}
	return runVerb(set, args, switchUsage, check, func() error {
		if err := checkFolder("--cache", o.Cache); err != nil {
			return err
		}
		o.Loaded = func(s machine.Switched) error { return printSwitched(out, s, *asJSON) }
		return machine.Switch(ctx, o, os.Stderr)
	})
}

// printSwitched prints the result before the jump.
func printSwitched(out io.Writer, s machine.Switched, asJSON bool) error {
	if asJSON {
		return json.NewEncoder(out).Encode(s)
	}
	verb := "starts"
	if s.DryRun {
		verb = "would start"
	}
	_, err := fmt.Fprintf(out, "release %s %s in place of %s, %s in memory: %s\n", report.Printable(s.To), verb, report.Printable(s.From), report.Bytes(s.Bytes), s.How)
	return err
}
