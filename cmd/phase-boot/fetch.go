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
	"runtime"
	"strings"
	"sync"
	"time"

	"github.com/dustin/go-humanize"
	"golang.org/x/term"

	"github.com/phaseboot/phaseboot/bootclient"
	"github.com/phaseboot/phaseboot/internal/cli"
	"github.com/phaseboot/phaseboot/modes"
)

const fetchUsage = `phase-boot fetch finds the newest signed release of a channel, fetches it from
every source it can find, verifies it and writes it to a folder: kernel, initramfs,
rootfs, dtb/NAME, job/NAME.wasm, cmdline, release.json, report.json. Of the files of an
earlier fetch, what the new release shares is not fetched again, and the rest is replaced.
Other files stay; one in the way is an error.

Usage:
  phase-boot fetch --root root.json [flags] --out DIR

Examples:
  phase-boot fetch --root root.json --mode local --out release
  phase-boot fetch --root root.json --mode local --out release --seed
  phase-boot fetch --root root.json --channel stable --arch x86_64 \
      --mirror http://192.0.2.1:8080 --cache ~/.cache/phase-boot --out release

Flags:
`

type fetchFlags struct {
	root, channel, arch, mode, cache, out string
	mirrors, peers, bootstrap             list
	json, share, seed                     bool
	timeout, patience                     time.Duration
}

// A list is a flag that may be given several times.
type list []string

func (l *list) String() string { return strings.Join(*l, " ") }

func (l *list) Set(s string) error {
	*l = append(*l, s)
	return nil
}

func newFetchFlags(f *fetchFlags) *flag.FlagSet {
	set := flag.NewFlagSet("phase-boot fetch", flag.ContinueOnError)
	set.SetOutput(io.Discard)
	set.StringVar(&f.root, "root", "", "`FILE` with the root metadata: the one thing that is trusted")
	set.StringVar(&f.channel, "channel", "stable", "channel `NAME`")
	set.StringVar(&f.arch, "arch", hostArch(), "architecture `NAME`: x86_64 or arm64")
	set.StringVar(&f.mode, "mode", modes.Default, "how to look for sources: `MODE` is one of "+strings.Join(modes.Names(), ", "))
	set.StringVar(&f.cache, "cache", "", "`DIR` for blocks and for the newest trusted metadata; without it, an older release cannot be told; mode private opens none")
	set.StringVar(&f.out, "out", "", "`DIR` to write the release to")
	set.Var(&f.mirrors, "mirror", "`URL` of a web mirror or publisher, or file:///DIR; may be repeated")
	set.Var(&f.peers, "peer", "`MULTIADDR` with /p2p/ID of a peer that has the release; may be repeated")
	set.Var(&f.bootstrap, "bootstrap", "`MULTIADDR` with /p2p/ID to enter the DHT; may be repeated")
	set.BoolVar(&f.json, "json", false, "print the report as one JSON object on stdout")
	set.BoolVar(&f.share, "share", true, "serve what is verified to other machines, where the mode announces (--share=false: no)")
	set.BoolVar(&f.seed, "seed", false, "go on serving after the fetch, until interrupted")
	set.DurationVar(&f.timeout, "timeout", bootclient.DefaultTimeout, "how long to look for a valid release")
	set.DurationVar(&f.patience, "patience", bootclient.DefaultPatience, "how long to wait for the next block of it, while no source gives one")
	return set
}

// hostArch is the name that releases use for this machine's architecture.
func hostArch() string {
	if runtime.GOARCH == "amd64" {
		return "x86_64"
	}
	return runtime.GOARCH
}

// fetch is the verb of that name.
func fetch(ctx context.Context, args []string) error {
	var f fetchFlags
	set := newFetchFlags(&f)
	if help, err := parse(set, args, "fetch", fetchUsage, f.check); help || err != nil {
		return err
	}
	return f.run(ctx)
}

func (f *fetchFlags) check(rest []string) error {
	switch {
	case len(rest) > 0:
		return fmt.Errorf("unexpected argument %.80q", rest[0])
	case f.root == "":
		return errors.New("--root is missing: name the root.json of the repository")
	case f.out == "":
		return errors.New("--out is missing: name the folder to write to")
	case f.timeout <= 0:
		return fmt.Errorf("--timeout %s: must be positive, such as 60s", f.timeout)
	case f.patience <= 0:
		return fmt.Errorf("--patience %s: must be positive, such as 5m", f.patience)
	}
	if err := checkArch(f.arch); err != nil {
		return err
	}
	return bootclient.Config{Mirrors: f.mirrors, Peers: f.peers, Bootstrap: f.bootstrap}.Check()
}

func (f *fetchFlags) run(ctx context.Context) error {
	root, err := readRoot(f.root)
	if err != nil {
		return err
	}
	if err := checkFolder("--cache", f.cache); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	mode, err := modes.Load(f.mode)
	if err != nil {
		return cli.Usagef("--mode: %v", err)
	}
	if err := bootclient.CheckCache(f.cache); err != nil && mode.Cache != "off" {
		return fmt.Errorf("--%w", err)
	}
	if mode.Cache == "off" && f.cache != "" {
		fmt.Fprintf(os.Stderr, "phase-boot: --cache %s: not opened in mode %s, so an older release cannot be told\n", f.cache, mode.Name)
	}
	if f.seed && (!f.share || !mode.Announce || mode.Proxy != "") {
		return cli.Usagef("--seed: mode %s with --share=%t serves nobody; choose a mode that announces", mode.Name, f.share)
	}
	if err := checkProxies(mode); err != nil {
		return err
	}
	sink, err := bootclient.NewDirSink(f.out)
	if err != nil {
		return err
	}
	defer sink.Close()
	line := &statusLine{w: os.Stderr, terminal: term.IsTerminal(int(os.Stderr.Fd()))}
	report := bootclient.NewReport(time.Now(), line)
	cfg := bootclient.Config{
		Root: root, Channel: f.channel, Arch: f.arch, Mode: mode, Cache: f.cache, CacheWanted: f.cache != "", Timeout: f.timeout, Patience: f.patience, Share: f.share,
		Mirrors: f.mirrors, Peers: f.peers, Bootstrap: f.bootstrap, Report: report, Progress: line.progress,
	}
	useProxy(&cfg)
	var told error
	tell := sync.OnceFunc(func() {
		line.clear()
		told = f.tell(report, err)
	})
	if f.seed {
		cfg.Stay = func(r bootclient.Ready) {
			tell()
			serving("fetch", r)
			fmt.Fprintln(os.Stderr, "phase-boot fetch: goes on serving until it is interrupted")
		}
	}
	line.show("looking for sources…")
	_, err = bootclient.Run(ctx, cfg, sink)
	if f.seed && err == nil {
		fmt.Fprintf(os.Stderr, "phase-boot fetch: served %s to other machines\n", humanize.IBytes(uint64(report.Served())))
	}
	tell()
	return cmp.Or(err, told)
}

// tell prints the report: in words on stderr, or as JSON on stdout.
func (f *fetchFlags) tell(report *bootclient.Report, err error) error {
	if f.json {
		return json.NewEncoder(os.Stdout).Encode(report)
	}
	if werr := report.Words(os.Stderr); werr != nil || err != nil {
		return werr
	}
	_, err = fmt.Fprintln(os.Stdout, f.out)
	return err
}

// A statusLine is stderr with one line at its end that is written over again and
// again. Without a terminal it is a line every ten seconds.
type statusLine struct {
	w        io.Writer
	terminal bool

	mu      sync.Mutex
	shown   bool
	started time.Time // when the first block came
	last    time.Time // when there was a line without a terminal
}

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

func (s *statusLine) progress(done, total int64) {
	if total <= 0 {
		return
	}
	now := time.Now()
	s.mu.Lock()
	if s.started.IsZero() {
		s.started, s.last = now, now
	}
	words, due := cli.ProgressWords(done, total, now.Sub(s.started)), now.Sub(s.last) >= cli.LineEvery
	if due {
		s.last = now
	}
	s.mu.Unlock()
	switch {
	case s.terminal:
		s.show(words)
	case due:
		fmt.Fprintf(s, "fetch: %s\n", words)
	}
}

func (s *statusLine) show(words string) {
	if !s.terminal {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	io.WriteString(s.w, "\r\x1b[K"+words)
	s.shown = true
}
