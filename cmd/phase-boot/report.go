package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/phaseboot/phaseboot/bootclient/machine"
)

const reportUsage = `phase-boot report sends the boot report of a machine to the publisher that it has booted from, with
the steps of its target. Run it in a running target; the unit phase-report.service of the demo's
root filesystem does. Reports of earlier boots that are kept in a cache are sent too. While no
publisher takes the report, it tries again. It refuses if the boot mode allows no report.

Usage:
  phase-boot report [flags]

Examples:
  phase-boot report
  phase-boot report --timeout 1m

Flags:
`

// sendReport runs `phase-boot report`.
func sendReport(ctx context.Context, args []string) error {
	set := newFlags("phase-boot report")
	dir := set.String("dir", "/run/phase", "`DIR` of the hand-over: reporting.json, report.json and machine.key")
	cache := set.String("cache", "/run/phase/cache", "`DIR` of the mounted cache partition, \"\" for none")
	timeout := set.Duration("timeout", 24*time.Hour, "how long to try")
	check := func(rest []string) error {
		switch {
		case len(rest) > 0:
			return fmt.Errorf("unexpected argument %.80q", rest[0])
		case *timeout <= 0:
			return errors.New("--timeout: must be positive")
		}
		return nil
	}
	return runVerb(set, args, reportUsage, check, func() error {
		limited, cancel := context.WithTimeout(ctx, *timeout)
		defer cancel()
		return machine.ReportTarget(limited, *dir, *cache, func(words string) { fmt.Fprintf(os.Stderr, "phase-boot report: %s\n", words) })
	})
}
