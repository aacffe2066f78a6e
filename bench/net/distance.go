package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"
)

// distances are the round trips of the experiment.
var distances = []time.Duration{50 * time.Millisecond, 150 * time.Millisecond, 300 * time.Millisecond}

// smallSize is the size of the root filesystem of the small release. That of the large one is -size.
const smallSize = 18<<20 - (64+192)<<10

// A farRow is a client of the mirror.
type farRow struct {
	name  string
	fetch func(ctx context.Context, ns, out string) (*process, error)
	took  []time.Duration
	peak  []int64 // bytes of memory
}

// distant measures a fetch from a static mirror far away, beside curl of one file of the same mirror.
func (t *tool) distant(ctx context.Context) error {
	for _, size := range []int64{smallSize, t.size} {
		if err := t.distantSize(ctx, size); err != nil {
			return err
		}
	}
	return nil
}

func (t *tool) distantSize(ctx context.Context, size int64) error {
	r, err := t.random(ctx, "far", size)
	if err != nil {
		return err
	}
	defer os.RemoveAll(r.dir)
	for out, option := range map[string]string{"mirror": "--tuf-targets=true", "blocks": "--tuf-targets=false"} {
		if _, err := output(ctx, filepath.Join(r.bin, "phase-publish"), "export", "--store", r.path("store"), "--repo", r.path("repo"),
			"--ipns-key", r.path("keys/ipns"), "--out", r.path(out), option); err != nil {
			return err
		}
	}
	fmt.Printf("  %d MiB to a file, medians of %d\n", size>>20, t.runs)
	fmt.Printf("  %-10s %-44s %9s %9s %9s %10s\n", "round trip", "", "time", "speed", "of curl", "memory")
	for _, trip := range distances {
		rows, err := t.distantTrip(ctx, r, trip)
		if err != nil {
			return fmt.Errorf("%s: %w", trip, err)
		}
		curl := median(rows[0].took)
		for _, row := range rows {
			took := median(row.took)
			fmt.Printf("  %-10s %-44s %7.2f s %4.0f MB/s %7.2f x %6d MiB\n", trip, row.name, took.Seconds(),
				float64(size)/1e6/took.Seconds(), took.Seconds()/curl.Seconds(), median(row.peak)>>20)
		}
	}
	return nil
}

// distantTrip runs all clients of a mirror behind a line with a round trip, one after another.
func (t *tool) distantTrip(ctx context.Context, r *repository, trip time.Duration) ([]*farRow, error) {
	w, err := newWAN(ctx, trip, t.farRate)
	if err != nil {
		return nil, err
	}
	defer w.remove()
	server, err := t.nginx(ctx, w.server, wanServer+":80", r.dir)
	if err != nil {
		return nil, err
	}
	defer server.stop()
	boot := func(mirror string) func(ctx context.Context, ns, out string) (*process, error) {
		return func(ctx context.Context, ns, out string) (*process, error) {
			return r.boot(ctx, ns, nil, out, "--mode", "private", "--mirror", "http://"+wanServer+"/"+mirror)
		}
	}
	rows := []*farRow{
		{name: "nginx, curl, one file, nothing verified", fetch: func(ctx context.Context, ns, out string) (*process, error) {
			return t.curl(ctx, ns, nil, "http://"+wanServer+"/rootfs", out)
		}},
		{name: "nginx, phase-boot fetch", fetch: boot("mirror")},
		{name: "nginx, phase-boot fetch, --tuf-targets=false", fetch: boot("blocks")},
	}
	for range t.runs {
		for _, row := range rows {
			if err := t.farRun(ctx, w, row); err != nil {
				return nil, fmt.Errorf("%s: %w", row.name, err)
			}
		}
	}
	return rows, nil
}

// farRun runs a client once.
func (t *tool) farRun(ctx context.Context, w *wan, row *farRow) error {
	dir, err := t.outputDir()
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	p, err := row.fetch(ctx, w.machine, filepath.Join(dir, "out"))
	if err != nil {
		return err
	}
	peak := make(chan int64, 1)
	go func() { peak <- p.peakMemory() }()
	if err := errors.Join(p.finish(), w.failed()); err != nil {
		return err
	}
	row.took, row.peak = append(row.took, p.ended.Sub(p.begun)), append(row.peak, <-peak)
	return nil
}
