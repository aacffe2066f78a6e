package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/phaseboot/phaseboot/bootclient"
	"github.com/phaseboot/phaseboot/bootclient/machine"
	"github.com/phaseboot/phaseboot/bootclient/watch"
	"github.com/phaseboot/phaseboot/internal/cli"
	"github.com/phaseboot/phaseboot/internal/window"
)

const watchUsage = `phase-boot watch learns in a running target of the release that the machine would boot next, and
fetches it ahead into the cache, with the search, the checks and the roll-out rules of a boot. It
never removes the running release from the cache, and starts nothing: use phase-boot switch, or
restart the machine. When the release is there and verified, it writes reboot-required and
reboot-required.pkgs as Debian does. The unit phase-watch.service runs it; it is off unless
phase.watch=on, or phase.watch=WINDOW, is on the kernel command line. A private mode refuses it.

Usage:
  phase-boot watch [flags]

Examples:
  phase-boot watch --once
  phase-boot watch --window "Mon-Fri 02:00-05:00" --rate 2M
  phase-boot watch --status --json

Flags:
`

type watchFlags struct {
	machine.NextOptions
	window                                    string
	rate                                      cli.Size
	every                                     time.Duration
	notice                                    string
	once, status, json, openCache, closeCache bool

	times  window.Window
	out    io.Writer
	outErr error // of the last result
}

// watchNext runs `phase-boot watch`.
func watchNext(ctx context.Context, args []string, out io.Writer) error {
	f := watchFlags{out: out}
	set := newFlags("phase-boot watch")
	set.BoolVar(&f.once, "once", false, "look once, fetch if the window is open, and end")
	set.BoolVar(&f.status, "status", false, "print the result of the last round of the service, and end")
	set.BoolVar(&f.json, "json", false, "print each result as one JSON object on stdout")
	set.StringVar(&f.window, "window", "", "fetch only in these `TIMES`, such as \"Mon-Fri 02:00-05:00\" or \"22:00-04:00 UTC\"; without UTC it is the time zone of the machine (default: that of phase.watch=, else always)")
	set.Var(&f.rate, "rate", "fetch at most `BYTES` per second on average, such as 2M; at least 64K (default: no limit)")
	set.DurationVar(&f.every, "every", watch.Every, "how long to wait between two looks, more or less a quarter")
	set.StringVar(&f.notice, "notice", "", "`DIR` of reboot-required and reboot-required.pkgs, and of status.json (default: /run/phase-watch, the folder of the service, if it is there, else /run)")
	set.StringVar(&f.Dir, "dir", "/run/phase", "`DIR` of the hand-over")
	set.StringVar(&f.Cache, "cache", "", "`DIR` of a cache that may be written (default: the cache partition)")
	set.BoolVar(&f.openCache, "open-cache", false, "make the cache partition writable for the service, and end")
	set.BoolVar(&f.closeCache, "close-cache", false, "make it read-only again, and end")
	return runVerb(set, args, watchUsage, f.check, func() error { return f.run(ctx) })
}

func (f *watchFlags) check(rest []string) (err error) {
	alone := 0
	for _, set := range []bool{f.once, f.status, f.openCache, f.closeCache} {
		if set {
			alone++
		}
	}
	switch {
	case len(rest) > 0:
		return fmt.Errorf("unexpected argument %.80q", rest[0])
	case alone > 1:
		return errors.New("--once, --status, --open-cache and --close-cache: give one of them")
	case f.rate != 0 && f.rate < bootclient.MinRate:
		return fmt.Errorf("--rate %s: at least 64K are needed", f.rate.String())
	case f.every < watch.MinEvery:
		return fmt.Errorf("--every %s: at least %s are needed", f.every, watch.MinEvery)
	}
	if f.window != "" {
		if f.times, err = window.Parse(f.window); err != nil {
			return fmt.Errorf("--window: %w", err)
		}
	}
	return nil
}

func (f *watchFlags) run(ctx context.Context) error {
	if f.notice == "" {
		f.notice = noticeFolder("/run")
	}
	switch {
	case f.openCache:
		return machine.OpenNextCache(ctx)
	case f.closeCache:
		return machine.CloseNextCache()
	case f.status:
		return f.printStatus()
	}
	on, given, times, err := machine.WatchWord()
	if err != nil {
		return fmt.Errorf("phase.watch=: %w", err)
	}
	if given && !on && !f.once {
		f.say("phase.watch=off on the kernel command line: nothing to do")
		return nil
	}
	if f.window == "" {
		f.times = times
	}
	if err := checkFolder("--notice", f.notice); err != nil {
		return err
	}
	if err := checkFolder("--cache", f.Cache); err != nil {
		return err
	}
	w, leave, err := machine.NewWatcher(ctx, f.NextOptions)
	if err != nil {
		return err
	}
	w.Window, w.Every, w.Rate, w.Notice, w.Say, w.Done = f.times, f.every, int64(f.rate), f.notice, f.say, f.done
	if f.once {
		_, err = w.Once(ctx)
	} else {
		err = w.Run(ctx)
	}
	return errors.Join(err, leave(), f.outErr)
}

// noticeFolder returns the folder of the service if it is there: the files of run are links to it then.
func noticeFolder(run string) string {
	if dir := filepath.Join(run, "phase-watch"); checkFolder("--notice", dir) == nil {
		return dir
	}
	return run
}

// say prints a line for the log. The result of one round is an error, or is printed by done.
func (f *watchFlags) say(line string) {
	if !f.once {
		fmt.Fprintf(os.Stderr, "phase-boot watch: %s\n", line)
	}
}

// done prints the result of a round on stdout.
func (f *watchFlags) done(s watch.Status) {
	switch {
	case f.json:
		f.outErr = json.NewEncoder(f.out).Encode(s)
	case f.once && s.State != watch.Failed:
		_, f.outErr = fmt.Fprintln(f.out, s.Line())
	}
}

// printStatus prints the last result of the service.
func (f *watchFlags) printStatus() error {
	s, err := watch.ReadStatus(f.notice)
	if errors.Is(err, os.ErrNotExist) {
		s, err = watch.ReadStatus(f.notice + "/phase-watch") // of the unit
	}
	switch {
	case err != nil:
		return fmt.Errorf("%w; is phase-watch.service running?", err)
	case f.json:
		return json.NewEncoder(f.out).Encode(s)
	}
	_, err = fmt.Fprintln(f.out, s.At.Format(time.RFC3339), s.Line())
	return err
}
