package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if len(os.Args) > 1 && os.Args[1] == "child" {
		out, err := child(ctx, os.Args[2:])
		if err == nil {
			err = json.NewEncoder(os.Stdout).Encode(out)
		}
		exit(err)
	}
	var b bench
	flag.StringVar(&b.dir, "dir", "", "working folder; files made in it are removed")
	flag.StringVar(&b.pair, "pair", "", "folder with first.squashfs and second.squashfs")
	flag.IntVar(&b.runs, "runs", 5, "runs of each; medians are printed")
	flag.Int64Var(&b.size, "size", 1<<30, "bytes of the random file")
	flag.Int64Var(&b.big, "big", 8<<30, "bytes of the file of the memory measurement; 0: skip it")
	flag.Int64Var(&b.blocks, "blocks", 10_000_000, "blocks of the store of the index measurement; 0: skip it")
	flag.IntVar(&b.packs, "packs", 640, "packs of that store")
	only := flag.String("only", "newbytes,ingest,read,memory,index", "measurements to run")
	flag.Parse()
	b.only = strings.Split(*only, ",")
	if b.dir == "" || b.pair == "" || flag.NArg() > 0 {
		fmt.Fprintln(os.Stderr, "usage: store -dir DIR -pair DIR [-runs N] [-size BYTES] [-big BYTES] [-blocks N] [-packs N] [-only WHAT,…]")
		os.Exit(2)
	}
	exit(b.run(ctx))
}

func exit(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench/store:", err)
		os.Exit(1)
	}
	os.Exit(0)
}

type bench struct {
	dir, pair string
	runs      int
	size, big int64
	blocks    int64
	packs     int
	only      []string
	self      string
}

func (b *bench) run(ctx context.Context) error {
	var err error
	if b.self, err = os.Executable(); err != nil {
		return err
	}
	if err := os.MkdirAll(b.dir, 0o755); err != nil {
		return err
	}
	if b.dir, err = os.MkdirTemp(b.dir, "run-"); err != nil {
		return err
	}
	defer os.RemoveAll(b.dir)
	load("before")
	for _, m := range []struct {
		name string
		run  func(context.Context) error
	}{{"newbytes", b.newBytes}, {"ingest", b.ingest}, {"read", b.read}, {"memory", b.memory}, {"index", b.index}} {
		if !slices.Contains(b.only, m.name) {
			continue
		}
		if err := m.run(ctx); err != nil {
			return err
		}
	}
	load("after")
	return nil
}

// load prints the load average, which shows other work on the machine.
func load(when string) {
	text, err := os.ReadFile("/proc/loadavg")
	if err == nil {
		fmt.Printf("load average %s: %s", when, text)
	}
}

func (b *bench) path(name string) string { return filepath.Join(b.dir, name) }

// A contestant is a row of a table: one way to do the table's work.
type contestant struct {
	name string
	run  func(ctx context.Context) (cost, error)
	took []cost
}

// A cost is the wall time and the processor time of one run. Other load on the machine
// changes the processor time only a little.
type cost struct{ Wall, CPU time.Duration }

// race runs every contestant in turn, b.runs times, and returns the medians.
func (b *bench) race(ctx context.Context, all []*contestant) ([]cost, error) {
	for range b.runs {
		for _, c := range all {
			unix.Sync() // no run waits for writes of the previous one
			d, err := c.run(ctx)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", c.name, err)
			}
			c.took = append(c.took, d)
		}
	}
	medians := make([]cost, len(all))
	for i, c := range all {
		medians[i] = cost{
			median(c.took, func(c cost) time.Duration { return c.Wall }),
			median(c.took, func(c cost) time.Duration { return c.CPU }),
		}
	}
	return medians, nil
}

func median(costs []cost, of func(cost) time.Duration) time.Duration {
	all := make([]time.Duration, len(costs))
	for i, c := range costs {
		all[i] = of(c)
	}
	slices.Sort(all)
	return all[len(all)/2]
}

// table prints the time, the speed, the speed relative to the first contestant, and the
// processor time per GiB of each contestant.
func table(title string, bytes int64, all []*contestant, medians []cost) {
	fmt.Printf("\n%s\n", title)
	for i, c := range all {
		wall := medians[i].Wall.Seconds()
		fmt.Printf("  %-44s %8.2f s %8.0f MB/s   %6.2f x ours   %6.2f CPU s/GiB\n", c.name, wall,
			float64(bytes)/1e6/wall, medians[0].Wall.Seconds()/wall, medians[i].CPU.Seconds()*float64(1<<30)/float64(bytes))
	}
}
