package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"
)

// hostilePeers are the attacks of the hostile machines.
var hostilePeers = []string{"wrong", "silent", "slow"}

// flashCrowd starts many machines at once, with our commands, BitTorrent, and nginx and curl.
func (t *tool) flashCrowd(ctx context.Context) error {
	r, err := t.random(ctx, "crowd", t.release)
	if err != nil {
		return err
	}
	defer os.RemoveAll(r.dir)
	ours := t.ours(r)
	torrent, err := t.torrent(r)
	if err != nil {
		return err
	}
	plain := t.plain(r)
	fmt.Printf("  %d machines, a release of %.1f MB, publisher's port %s each way, other ports unlimited, medians of %d\n",
		t.machines, float64(ours.size)/1e6, t.rate, t.runs)
	bad := hostilePeers[:min(len(hostilePeers), t.machines-1)]
	return t.rows(ctx, []*row{
		{delivery: ours},
		{delivery: torrent},
		{delivery: plain},
		{delivery: ours, what: fmt.Sprintf(", %d of them hostile", len(bad)), bad: bad},
		{delivery: ours, what: ", publisher stops", after: 1.2},
	})
}

// A row is one delivery under one condition.
type row struct {
	delivery
	what  string   // condition, for the table
	bad   []string // attacks of hostile machines
	after float64  // see delivery.run
	runs  []outcome
}

// rows measures each delivery with one machine alone, and each row with all machines, several
// times in turn, and prints the table.
func (t *tool) rows(ctx context.Context, all []*row) error {
	alone := map[string][]outcome{}
	for i := range t.runs {
		for _, r := range all {
			if len(alone[r.name]) > i {
				continue
			}
			one, err := r.run(ctx, t, 1, nil, 0)
			if err = errors.Join(err, one.why); err != nil {
				return fmt.Errorf("%s, alone: %w", r.name, err)
			}
			alone[r.name] = append(alone[r.name], one)
		}
		for _, r := range all {
			many, err := r.run(ctx, t, t.machines, r.bad, r.after)
			if err != nil {
				return fmt.Errorf("%s%s: %w", r.name, r.what, err)
			}
			r.runs = append(r.runs, many)
		}
	}
	fmt.Printf("  %-48s %9s %9s %9s %9s %7s\n", "", "alone", "last", "x alone", "copies", "CPU")
	for _, r := range all {
		r.print(alone[r.name])
	}
	return nil
}

func (r *row) print(alone []outcome) {
	last := func(o outcome) time.Duration { return o.last }
	one, all := medianOf(alone, last), medianOf(r.runs, last)
	fmt.Printf("  %-48s %7.1f s %7.1f s %8.2fx %8.2fx %6.0f%%\n", r.name+r.what, one.Seconds(), all.Seconds(), all.Seconds()/one.Seconds(),
		medianOf(r.runs, func(o outcome) float64 { return o.copies }), 100*medianOf(r.runs, func(o outcome) float64 { return o.busy }))
	for i, o := range r.runs {
		if r.after > 0 {
			fmt.Printf("    run %d: %s\n", i+1, o.stop.words(o.last))
		}
		if o.failed > 0 {
			fmt.Printf("    run %d: %d machines failed: %.600v\n", i+1, o.failed, o.why)
		}
	}
}

// ours is the delivery with phase-publish and phase-boot, which find each other by mDNS.
func (t *tool) ours(r *repository) delivery {
	return delivery{
		name: "phase-boot fetch",
		size: t.release + 256<<10,
		repo: r,
		serve: func(ctx context.Context, s *testbed) error {
			p, at, err := r.serve(ctx, s.publisher.ns, s.publisher.addr, "--identity", s.t.path("peer.key"))
			if err != nil {
				return err
			}
			s.daemons = append(s.daemons, p)
			for _, h := range s.hostile {
				p, err := r.startHostile(ctx, t.self, at.HTTP[0], h.host, h.attack)
				if err != nil {
					return err
				}
				s.daemons = append(s.daemons, p)
			}
			return nil
		},
		fetch: func(ctx context.Context, _ *testbed, h *host, g *barrier, out string) (*process, error) {
			return r.boot(ctx, h.ns, g, out, "--mode", "local")
		},
	}
}

// plain is the delivery with nginx and curl.
func (t *tool) plain(r *repository) delivery {
	return delivery{
		name: "nginx, curl",
		size: t.release,
		serve: func(ctx context.Context, s *testbed) error {
			p, err := t.nginx(ctx, s.publisher.ns, s.publisher.addr+":80", r.dir)
			if err == nil {
				s.daemons = append(s.daemons, p)
			}
			return err
		},
		fetch: func(ctx context.Context, s *testbed, h *host, g *barrier, out string) (*process, error) {
			return t.curl(ctx, h.ns, g, "http://"+s.publisher.addr+"/rootfs", out)
		},
	}
}

// torrent is the delivery with aria2 at both ends and our tracker. A machine with the whole
// file seeds until all machines have it.
func (t *tool) torrent(r *repository) (delivery, error) {
	file := r.path("rootfs.torrent")
	aria := func(ctx context.Context, ns string, g *barrier, dir string, more ...string) (*process, error) {
		return start(ctx, ns, g, "aria2c", append([]string{
			"--no-conf", "--enable-dht=false", "--bt-enable-lpd=false", "--seed-ratio=0.0", "--file-allocation=none", "--listen-port=6881",
			"--allow-overwrite=true", "--summary-interval=0", "--bt-tracker-interval=3", "--dir=" + dir, file,
		}, more...)...)
	}
	return delivery{
		name: "BitTorrent, aria2c",
		size: t.release,
		serve: func(ctx context.Context, s *testbed) error {
			addr := s.other.addr + ":6969"
			if err := writeTorrent(file, "http://"+addr+"/announce", r.path("rootfs")); err != nil {
				return err
			}
			tracker, err := start(ctx, s.other.ns, nil, t.self, "tracker", addr)
			if err != nil {
				return err
			}
			s.daemons = append(s.daemons, tracker)
			seed, err := aria(ctx, s.publisher.ns, nil, r.dir, "--bt-seed-unverified=true")
			if err != nil {
				return err
			}
			s.daemons = append([]*process{seed}, s.daemons...)
			return waitForLine("announced")(tracker)
		},
		fetch: func(ctx context.Context, _ *testbed, h *host, g *barrier, out string) (*process, error) {
			return aria(ctx, h.ns, g, filepath.Dir(out), "--on-bt-download-complete=/bin/echo")
		},
		done: waitForLine("/rootfs"), // printed by --on-bt-download-complete
	}, nil
}
