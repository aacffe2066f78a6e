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

// helpers are the programs that the tool starts inside a namespace.
var helpers = map[string]func(ctx context.Context, args []string) error{
	"hostile": hostile,
	"tracker": tracker,
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if len(os.Args) > 1 && helpers[os.Args[1]] != nil {
		exit(helpers[os.Args[1]](ctx, os.Args[2:]))
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

// A tool is the configuration of one run.
type tool struct {
	names            []string // experiments
	runs, machines   int
	size, release    int64 // bytes
	rate, farRate    string
	bin, dir, pair   string
	clients, lookups int
	nodes            []int
	svg              string
	disk             bool

	self string
}

// An experiment measures one situation and prints a table.
type experiment struct {
	name, title string
	run         func(t *tool, ctx context.Context) error
}

var experiments = []experiment{
	{"1", "one machine, one peer, loopback", (*tool).onePeer},
	{"2", "machines that start at once, and a publisher with a slow port", (*tool).flashCrowd},
	{"3", "the next release for a machine with the previous one in its cache", (*tool).update},
	{"4", "the DHT", (*tool).dht},
	{"6", "a publisher under siege", (*tool).siege},
	{"7", "a fetch among bad peers", (*tool).badPeers},
	{"8", "a static mirror at a distance", (*tool).distant},
}

func parse(args []string) (*tool, error) {
	var t tool
	var names, nodes string
	set := flag.NewFlagSet("net", flag.ContinueOnError)
	set.StringVar(&names, "show", "1,2,3,4,6,7,8", "experiments: 1 (one peer), 2 (flash crowd), 3 (update), 4 (DHT), 6 (siege), 7 (bad peers), 8 (distance)")
	set.IntVar(&t.runs, "runs", 3, "runs of each row; medians are printed")
	set.Int64Var(&t.size, "size", 1<<30, "bytes of the root filesystem in 1, and of the large one in 8")
	set.Int64Var(&t.release, "release", 70_000_000, "bytes of the root filesystem in 2 and 7")
	set.IntVar(&t.machines, "machines", 16, "machines in 2")
	set.StringVar(&t.rate, "rate", "100mbit", "rate of the publisher's port in 2, in units of tc")
	set.StringVar(&t.farRate, "far-rate", "", "rate of the line in 8, in units of tc; empty for no limit")
	set.StringVar(&nodes, "nodes", "25,50,100,200,400,1000", "sizes of the DHT in 4, increasing")
	set.IntVar(&t.lookups, "lookups", 40, "lookups at each size in 4")
	set.StringVar(&t.svg, "svg", "", "`FILE` for the plot of 4")
	set.IntVar(&t.clients, "connections", 2000, "bad connections in 6")
	set.StringVar(&t.bin, "bin", "bin", "folder with the commands")
	set.StringVar(&t.dir, "dir", "build", "working folder; files made in it are removed")
	set.StringVar(&t.pair, "pair", "build/pair", "folder with first.squashfs and second.squashfs for 3")
	set.BoolVar(&t.disk, "disk", false, "write fetched files to the disk of the working folder, not to memory; all rows sync")
	if err := set.Parse(args); err != nil {
		return nil, err
	}
	if set.NArg() > 0 {
		return nil, fmt.Errorf("unexpected argument %q", set.Arg(0))
	}
	t.names = strings.Split(names, ",")
	for _, name := range t.names {
		if !slices.ContainsFunc(experiments, func(e experiment) bool { return e.name == name }) {
			return nil, fmt.Errorf("-show %q: unknown; use 1, 2, 3, 4, 6, 7 or 8", name)
		}
	}
	for text := range strings.SplitSeq(nodes, ",") {
		n, err := strconv.Atoi(text)
		if err != nil || n < 2 || len(t.nodes) > 0 && n <= t.nodes[len(t.nodes)-1] {
			return nil, fmt.Errorf("-nodes %q: must be increasing numbers from 2, such as 25,50,100", nodes)
		}
		t.nodes = append(t.nodes, n)
	}
	if t.lookups < 1 || t.runs < 1 || t.machines < 1 || t.machines > maxHosts-4 || t.size < 1 || t.release < 1 {
		return nil, fmt.Errorf("-runs, -machines (at most %d), -lookups, -size, -release: must be positive", maxHosts-4)
	}
	return &t, nil
}

// run runs the selected experiments. When one fails, the others still run.
func (t *tool) run(ctx context.Context) error {
	leave, err := t.enter()
	if err != nil {
		return err
	}
	defer leave()
	t.header(ctx)
	var errs []error
	for _, e := range experiments {
		if !slices.Contains(t.names, e.name) || ctx.Err() != nil {
			continue
		}
		fmt.Printf("\n%s. %s\n", e.name, e.title)
		printLoad("before")
		if err := e.run(t, ctx); err != nil {
			err = fmt.Errorf("experiment %s: %w", e.name, err)
			fmt.Println("  FAILED:", err)
			errs = append(errs, err)
		}
		printLoad("after")
	}
	return errors.Join(append(errs, ctx.Err())...)
}

func (t *tool) path(elem ...string) string { return filepath.Join(append([]string{t.dir}, elem...)...) }
