package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"
)

func main() {
	if t := os.Getenv(goodEnv); t != "" {
		os.Exit(runGoodClient(t))
	}
	path := flag.String("publish", "bin/phase-publish", "the phase-publish program to attack")
	conns := flag.Int("conns", 2000, "bad connections at once")
	length := flag.Duration("for", 10*time.Second, "time of each attack")
	only := flag.String("only", "", "run only attacks whose name contains this text")
	flag.Parse()
	if err := run(context.Background(), *path, *conns, *length, *only); err != nil {
		fmt.Fprintln(os.Stderr, "siege:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, path string, conns int, length time.Duration, only string) error {
	path, err := filepath.Abs(path)
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "siege-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	r, err := newRig(ctx, dir, path)
	if err != nil {
		return err
	}
	defer r.close()
	fmt.Printf("%-32s %9s %9s %9s %9s %7s %10s %6s\n", fmt.Sprintf("%d bad connections, %s", conns, length), "good MB/s", "block p50", "p95", "last", "retries", "RSS before", "peak")
	for _, a := range attacks {
		if !strings.Contains(a.name, only) {
			continue
		}
		res, err := a.measure(ctx, r, conns, length)
		if err != nil {
			return err
		}
		fmt.Printf("%-32s %9.0f %9s %9s %9s %7d %7d MB %3d MB\n", a.name, res.rate(),
			res.wait(50), res.wait(95), res.wait(100), res.Failed, res.before>>20, res.peak>>20)
		if res.Rounds == 0 {
			fmt.Printf("  the good client got no complete artifact: %s\n", res.Cause)
		}
	}
	return nil
}

// A result is the good client's result and the publisher's memory.
type result struct {
	good
	before, peak int64 // bytes of memory
}

// measure runs the good client beside n bad connections.
func (a attack) measure(ctx context.Context, r *rig, n int, length time.Duration) (res result, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	res.before = r.rss()
	peak, watching := make(chan int64, 1), make(chan struct{})
	go func() { peak <- r.watch(watching) }()
	dialed, done := a.start(ctx, r, n)
	dialed()
	t := task{HTTP: r.ready.HTTP[0], Root: r.rootfs.CID, Length: r.rootfs.Length, Seconds: length.Seconds()}
	if a.streams {
		t.Listen = r.ready.Listen
	}
	res.good, err = goodClient(ctx, t)
	cancel()
	done()
	close(watching)
	res.peak = <-peak
	return res, err
}

// watch returns the publisher's peak memory until done closes.
func (r *rig) watch(done <-chan struct{}) (peak int64) {
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		peak = max(peak, r.rss())
		select {
		case <-tick.C:
		case <-done:
			return peak
		}
	}
}
