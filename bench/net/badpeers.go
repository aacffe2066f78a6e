package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"
)

// badPeerKinds are the attacks of the bad peers on the segment, beside one good publisher.
var badPeerKinds = []string{"wrong", "truncated", "endless", "slow", "silent"}

// badPeers compares a fetch among bad peers with a fetch without them.
func (t *tool) badPeers(ctx context.Context) error {
	r, err := t.random(ctx, "bad", t.release)
	if err != nil {
		return err
	}
	defer os.RemoveAll(r.dir)
	var alone, among []time.Duration
	for range t.runs {
		for _, run := range []struct {
			bad  []string
			took *[]time.Duration
		}{{nil, &alone}, {badPeerKinds, &among}} {
			took, err := t.fetchAmong(ctx, r, run.bad)
			if err != nil {
				return fmt.Errorf("with bad peers %q: %w", run.bad, err)
			}
			*run.took = append(*run.took, took)
		}
	}
	fmt.Printf("  phase-boot fetch of %.1f MB, one good publisher:             %6.2f s\n", float64(t.release)/1e6, median(alone).Seconds())
	fmt.Printf("  the same among %d bad (%s):  %6.2f s, %+.2f s\n", len(badPeerKinds), "wrong block, truncated, endless, 1 byte/s, silent", median(among).Seconds(), (median(among) - median(alone)).Seconds())
	return nil
}

// fetchAmong returns the time of one fetch on a segment with a publisher and bad peers,
// which all run before the fetch starts.
func (t *tool) fetchAmong(ctx context.Context, r *repository, bad []string) (time.Duration, error) {
	l, err := newSegment(ctx, 2+len(bad))
	if err != nil {
		return 0, err
	}
	defer l.remove()
	server, at, err := r.serve(ctx, l.hosts[0].ns, l.hosts[0].addr)
	if err != nil {
		return 0, err
	}
	defer server.stop()
	for i, attack := range bad {
		p, err := r.startHostile(ctx, t.self, at.HTTP[0], l.hosts[2+i], attack)
		if err != nil {
			return 0, err
		}
		defer p.stop()
	}
	out, err := t.outputDir()
	if err != nil {
		return 0, err
	}
	defer os.RemoveAll(out)
	p, err := r.boot(ctx, l.hosts[1].ns, nil, filepath.Join(out, "out"), "--mode", "local")
	if err != nil {
		return 0, err
	}
	if err := p.finish(); err != nil {
		return 0, err
	}
	return p.ended.Sub(p.begun), nil
}
