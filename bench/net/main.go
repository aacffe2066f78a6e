package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

// parts are the programs that the tool runs inside a namespace.
var parts = map[string]func(ctx context.Context, args []string) error{
	"hostile": hostile,
	"tracker": tracker,
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if len(os.Args) > 1 && parts[os.Args[1]] != nil {
		exit(parts[os.Args[1]](ctx, os.Args[2:]))
	}
	t, err := parse(os.Args[1:])
	switch {
	case errors.Is(err, flag.ErrHelp):
		exit(nil)
	case err != nil:
		fmt.Fprintln(os.Stderr, "bench/net:", err)
		os.Exit(2)
	case !inside():
		exit(enclose(ctx))
	}
	exit(t.run(ctx))
}

func exit(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench/net:", err)
		os.Exit(1)
	}
	os.Exit(0)
}

// A tool is one run: what to show, how large, how often.
type tool struct {
	shows            []string
	runs, machines   int
	size, release    int64 // bytes
	rate             string
	bin, dir, pair   string
	clients, lookups int
	nodes            []int
	svg              string
	disk             bool

	self string
}

// A show prints the figures behind one claim.
type show struct {
	name, claim string
	run         func(t *tool, ctx context.Context) error
}

var shows = []show{
	{"1", "one machine, one peer, loopback", (*tool).onePeer},
	{"2", "machines that start together behind one thin line", (*tool).herd},
	{"3", "the next release over a cache with the last one", (*tool).update},
	{"4", "the DHT", (*tool).dht},
	{"6", "a publisher under siege", (*tool).crowded},
	{"7", "a boot among bad peers", (*tool).badPeers},
}

func parse(args []string) (*tool, error) {
	var t tool
	var names, nodes string
	set := flag.NewFlagSet("net", flag.ContinueOnError)
	set.StringVar(&names, "show", "1,2,3,4,6,7", "which of 1 (one peer), 2 (herd), 3 (update), 4 (DHT), 6 (siege), 7 (bad peers)")
	set.IntVar(&t.runs, "runs", 3, "runs of each; medians are printed")
	set.Int64Var(&t.size, "size", 1<<30, "bytes of the root filesystem of 1")
	set.Int64Var(&t.release, "release", 70_000_000, "bytes of the root filesystem of 2 and 7")
	set.IntVar(&t.machines, "machines", 16, "machines of 2")
	set.StringVar(&t.rate, "rate", "100mbit", "the publisher's line in 2, in words of tc")
	set.StringVar(&nodes, "nodes", "25,50,100,200,400,1000", "sizes of the DHT of 4, growing")
	set.IntVar(&t.lookups, "lookups", 40, "lookups at each size of 4")
	set.StringVar(&t.svg, "svg", "", "`FILE` for the plot of 4")
	set.IntVar(&t.clients, "connections", 2000, "bad connections of 6")
	set.StringVar(&t.bin, "bin", "bin", "folder with the commands")
	set.StringVar(&t.dir, "dir", "build", "working folder; what is made in it is removed")
	set.StringVar(&t.pair, "pair", "build/pair", "folder with first.squashfs and second.squashfs of 3")
	set.BoolVar(&t.disk, "disk", false, "write what is fetched to the disk of the working folder, not to memory; peers sync as we do")
	if err := set.Parse(args); err != nil {
		return nil, err
	}
	if set.NArg() > 0 {
		return nil, fmt.Errorf("unexpected argument %q", set.Arg(0))
	}
	t.shows = strings.Split(names, ",")
	for _, name := range t.shows {
		if !slices.ContainsFunc(shows, func(s show) bool { return s.name == name }) {
			return nil, fmt.Errorf("-show %q: one of 1, 2, 3, 4, 6, 7", name)
		}
	}
	for text := range strings.SplitSeq(nodes, ",") {
		n, err := strconv.Atoi(text)
		if err != nil || n < 2 || len(t.nodes) > 0 && n <= t.nodes[len(t.nodes)-1] {
			return nil, fmt.Errorf("-nodes %q: numbers of nodes, 2 or more, each more than the one before", nodes)
		}
		t.nodes = append(t.nodes, n)
	}
	if t.lookups < 1 || t.runs < 1 || t.machines < 1 || t.machines > maxHosts-4 || t.size < 1 || t.release < 1 {
		return nil, fmt.Errorf("-runs, -machines (to %d), -lookups, -size and -release must be positive", maxHosts-4)
	}
	return &t, nil
}

// run prints every show that was asked for. One that fails does not keep the others
// from running.
func (t *tool) run(ctx context.Context) error {
	leave, err := t.enter()
	if err != nil {
		return err
	}
	defer leave()
	t.header(ctx)
	var errs []error
	for _, s := range shows {
		if !slices.Contains(t.shows, s.name) || ctx.Err() != nil {
			continue
		}
		fmt.Printf("\n%s. %s\n", s.name, s.claim)
		load("before")
		if err := s.run(t, ctx); err != nil {
			err = fmt.Errorf("show %s: %w", s.name, err)
			fmt.Println("  FAILED:", err)
			errs = append(errs, err)
		}
		load("after")
	}
	return errors.Join(append(errs, ctx.Err())...)
}

func (t *tool) path(elem ...string) string { return filepath.Join(append([]string{t.dir}, elem...)...) }
