package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"os"
	"sync"
	"time"

	"golang.org/x/term"

	"github.com/phaseboot/phaseboot/bootclient"
	"github.com/phaseboot/phaseboot/bootclient/cache"
	"github.com/phaseboot/phaseboot/bootclient/report"
	"github.com/phaseboot/phaseboot/bootclient/timing"
	"github.com/phaseboot/phaseboot/internal/bootargs"
	"github.com/phaseboot/phaseboot/internal/cli"
	"github.com/phaseboot/phaseboot/manifest"
	"github.com/phaseboot/phaseboot/modes"
)

const fetchUsage = `phase-boot fetch finds the newest signed release of a channel, fetches it from all sources
that it finds, verifies it and writes it to a folder: kernel, initramfs, rootfs, dtb/NAME, boot/NAME,
job/NAME.wasm, cmdline, release.json, report.json. Files of an earlier fetch are replaced;
blocks that both releases share are not fetched again. Other files stay. A file of another
origin with the name of one of these is an error.

Usage:
  phase-boot fetch --root root.json [flags] --out DIR

Examples:
  phase-boot fetch --root root.json --mode local --out release
  phase-boot fetch --root root.json --mode local --out release --seed
  phase-boot fetch --root root.json --mode lab.json --out release
  phase-boot fetch --root root.json --channel stable --arch x86_64 \
      --mirror http://192.0.2.1:8080 --cache ~/.cache/phase-boot --out release

Flags:
`

type fetchFlags struct {
	releaseChoice
	out               string
	mirrors, peers    []string
	machine           manifest.Machine
	json, share, seed bool
	timeout, patience time.Duration
	timeoutSet        bool // on the command line
}

// fetch runs `phase-boot fetch`.
func fetch(ctx context.Context, args []string) error {
	var f fetchFlags
	set := newFlags("phase-boot fetch")
	f.define(set)
	set.StringVar(&f.mode, "mode", modes.Default, "how to find sources: `MODE` is "+modeUsage())
	set.StringVar(&f.cache, "cache", "", "`DIR` for blocks and for the newest trusted metadata; without it, an older release cannot be detected; mode private does not use it")
	set.StringVar(&f.out, "out", "", "`DIR` to write the release to")
	listVar(set, &f.mirrors, "mirror", "`URL` of a mirror or publisher, or file:///DIR; may be repeated")
	listVar(set, &f.peers, "peer", "`MULTIADDR` with /p2p/ID of a peer that has the release; may be repeated")
	listVar(set, &f.machine.Groups, "group", "`NAME` of a group of machines, for a release that is not for every machine; may be repeated")
	set.StringVar(&f.machine.ID, "machine", "", "`TEXT` that stays the same for this machine and decides whether it belongs to a percentage; without it, it belongs to none")
	set.BoolVar(&f.json, "json", false, "print the report as one JSON object on stdout")
	set.BoolVar(&f.share, "share", true, "serve verified blocks to other machines, if the mode announces (--share=false: do not)")
	set.BoolVar(&f.seed, "seed", false, "continue to serve after the fetch, until interrupted")
	set.DurationVar(&f.timeout, "timeout", timing.DefaultTimeout, fmt.Sprintf("how long to search for a valid release; mode tor searches for %s unless this is set", timing.TorTimeout))
	set.DurationVar(&f.patience, "patience", timing.DefaultPatience, "how long to wait for the next block if no source delivers one")
	return runVerb(set, args, fetchUsage, f.check, func() error {
		set.Visit(func(given *flag.Flag) { f.timeoutSet = f.timeoutSet || given.Name == "timeout" })
		return f.run(ctx)
	})
}

func (f *fetchFlags) check(rest []string) error {
	switch {
	case len(rest) > 0:
		return fmt.Errorf("unexpected argument %.80q", rest[0])
	case f.root == "":
		return errors.New("--root: missing; name the root.json of the repository")
	case f.out == "":
		return errors.New("--out: missing; name the folder to write to")
	case f.timeout <= 0:
		return fmt.Errorf("--timeout %s: must be positive, such as 60s", f.timeout)
	case f.patience <= 0:
		return fmt.Errorf("--patience %s: must be positive, such as 5m", f.patience)
	}
	for _, g := range f.machine.Groups {
		if err := bootargs.CheckGroup(g); err != nil {
			return fmt.Errorf("--group: %w", err)
		}
	}
	return cmp.Or(checkArch(f.arch), bootclient.Config{Mirrors: f.mirrors, Peers: f.peers, Bootstrap: f.bootstrap}.Check())
}

func (f *fetchFlags) run(ctx context.Context) error {
	cfg, err := f.config()
	if err != nil {
		return err
	}
	sink, err := bootclient.NewDirSink(f.out)
	if err != nil {
		return err
	}
	defer sink.Close()
	line := &statusLine{w: os.Stderr, terminal: term.IsTerminal(int(os.Stderr.Fd()))}
	rep := report.New(time.Now(), line)
	cfg.Report, cfg.Progress = rep, line.progress
	useProxy(&cfg)
	var printErr error
	printReport := sync.OnceFunc(func() {
		line.clear()
		printErr = f.printReport(rep, err)
	})
	if f.seed {
		cfg.Stay = func(r report.Ready) {
			printReport()
			printServing("fetch", r)
			fmt.Fprintln(os.Stderr, "phase-boot fetch: serving until interrupted")
		}
	}
	line.show("searching for sources…")
	_, err = bootclient.Run(ctx, cfg, sink)
	if f.seed && err == nil {
		fmt.Fprintf(os.Stderr, "phase-boot fetch: served %s to other machines\n", report.Bytes(rep.Served()))
	}
	printReport()
	return cmp.Or(err, printErr)
}

// config reads the files that the flags name and checks the flags against the mode.
func (f *fetchFlags) config() (bootclient.Config, error) {
	cfg := bootclient.Config{
		Channel: f.channel, Arch: f.arch, Cache: f.cache, CacheWanted: f.cache != "", Timeout: f.timeout, Patience: f.patience, Share: f.share,
		Mirrors: f.mirrors, Peers: f.peers, Bootstrap: f.bootstrap, Machine: f.machine,
	}
	var err error
	if cfg.Root, err = readRoot(f.root); err != nil {
		return cfg, err
	}
	if err := checkFolder("--cache", f.cache); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return cfg, err
	}
	if cfg.Mode, err = loadMode(f.mode); err != nil {
		return cfg, err
	}
	if cfg.Mode.Tor && !f.timeoutSet {
		cfg.Timeout = timing.TorTimeout
	}
	if err := cache.Check(f.cache); err != nil && cfg.Mode.Cache != "off" {
		return cfg, fmt.Errorf("--%w", err)
	}
	if cfg.Mode.Cache == "off" && f.cache != "" {
		fmt.Fprintf(os.Stderr, "phase-boot: --cache %s: not used in mode %s; an older release cannot be detected\n", f.cache, cfg.Mode.Name)
	}
	if f.seed && (!f.share || !cfg.Mode.Announce || cfg.Mode.Proxy != "") {
		return cfg, cli.Usagef("--seed: mode %s with --share=%t does not serve; choose a mode that announces", cfg.Mode.Name, f.share)
	}
	return cfg, checkProxies(cfg.Mode)
}

// printReport prints the report: as text on stderr, or as JSON on stdout.
func (f *fetchFlags) printReport(report *report.Report, err error) error {
	if f.json {
		return json.NewEncoder(os.Stdout).Encode(report)
	}
	if writeErr := report.Words(os.Stderr); writeErr != nil || err != nil {
		return writeErr
	}
	_, err = fmt.Fprintln(os.Stdout, f.out)
	return err
}

// A statusLine writes to stderr and keeps one line of progress at the end, which it overwrites.
// Without a terminal it prints a line of progress every ten seconds.
type statusLine struct {
	w        io.Writer
	terminal bool

	started time.Time // time of the first block
	last    time.Time // time of the last line of progress, without a terminal

	mu    sync.Mutex
	shown bool
}

// Write clears the line of progress and writes p.
func (s *statusLine) Write(p []byte) (int, error) {
	s.clear()
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.w.Write(p)
}

func (s *statusLine) clear() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.shown {
		io.WriteString(s.w, "\r\x1b[K")
		s.shown = false
	}
}

// progress shows how much of the release is there. It is called from one goroutine.
func (s *statusLine) progress(done, total int64) {
	if total <= 0 {
		return
	}
	now := time.Now()
	if s.started.IsZero() {
		s.started, s.last = now, now
	}
	text := cli.ProgressText(done, total, now.Sub(s.started))
	switch {
	case s.terminal:
		s.show(text)
	case now.Sub(s.last) >= cli.LineEvery:
		s.last = now
		fmt.Fprintf(s, "fetch: %s\n", text)
	}
}

func (s *statusLine) show(text string) {
	if !s.terminal {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	io.WriteString(s.w, "\r\x1b[K"+text)
	s.shown = true
}
