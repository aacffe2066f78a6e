package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"
)

// hostileThree are the machines of a herd that do harm.
var hostileThree = []string{"wrong", "liar", "slow"}

// herd lets machines start together, with ours and with those that others use.
func (t *tool) herd(ctx context.Context) error {
	r, err := t.random(ctx, "herd", t.release)
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
	fmt.Printf("  %d machines, a release of %.1f MB, the publisher's line %s each way, the others' as fast as the processor, medians of %d\n",
		t.machines, float64(ours.size)/1e6, t.rate, t.runs)
	bad := hostileThree[:min(len(hostileThree), t.machines-1)]
	return t.rows(ctx, []*row{
		{delivery: ours},
		{delivery: torrent},
		{delivery: plain},
		{delivery: ours, what: fmt.Sprintf(", %d of them hostile", len(bad)), bad: bad},
		{delivery: ours, what: ", publisher vanishes", after: 1.2},
	})
}

// A row is one delivery under one condition.
type row struct {
	delivery
	what  string
	bad   []string
	after float64
	runs  []outcome
}

// rows measures one machine alone with each delivery, then all of them in each row,
// several times in turn, and prints the table.
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
	one, all := of(alone, last), of(r.runs, last)
	fmt.Printf("  %-48s %7.1f s %7.1f s %8.2fx %8.2fx %6.0f%%\n", r.name+r.what, seconds(one), seconds(all), seconds(all)/seconds(one),
		of(r.runs, func(o outcome) float64 { return o.copies }), 100*of(r.runs, func(o outcome) float64 { return o.busy }))
	for i, o := range r.runs {
		if r.after > 0 {
			fmt.Printf("    run %d: %s\n", i+1, o.stop.words(o.last))
		}
		if o.failed > 0 {
			fmt.Printf("    run %d: %d machines failed: %.600v\n", i+1, o.failed, o.why)
		}
	}
}

// ours is phase-publish and phase-boot, which find each other by mDNS.
func (t *tool) ours(r *repository) delivery {
	return delivery{
		name: "phase-boot fetch",
		size: t.release + 256<<10,
		repo: r,
		serve: func(ctx context.Context, s *swarm) error {
			p, at, err := r.serve(ctx, s.publisher.ns, s.publisher.addr, "--identity", s.t.path("peer.key"))
			if err != nil {
				return err
			}
			s.daemons = append(s.daemons, p)
			for _, h := range s.hostile {
				p, err := r.startHostile(ctx, t.self, at.HTTP[0], h.host, h.harm)
				if err != nil {
					return err
				}
				s.daemons = append(s.daemons, p)
			}
			return nil
		},
		fetch: func(ctx context.Context, _ *swarm, h *host, g *gate, out string) (*process, error) {
			return r.boot(ctx, h.ns, g, out, "--mode", "local")
		},
	}
}

// plain is nginx and curl.
func (t *tool) plain(r *repository) delivery {
	return delivery{
		name: "nginx, curl",
		size: t.release,
		serve: func(ctx context.Context, s *swarm) error {
			p, err := t.nginx(ctx, s.publisher.ns, s.publisher.addr+":80", r.dir)
			if err == nil {
				s.daemons = append(s.daemons, p)
			}
			return err
		},
		fetch: func(ctx context.Context, s *swarm, h *host, g *gate, out string) (*process, error) {
			return t.curl(ctx, h.ns, g, "http://"+s.publisher.addr+"/rootfs", out)
		},
	}
}

// torrent is aria2 at both ends, with a tracker of our own. A machine that has the
// file goes on giving until all have it.
func (t *tool) torrent(r *repository) (delivery, error) {
	file := r.path("rootfs.torrent")
	aria := func(ctx context.Context, ns string, g *gate, dir string, more ...string) (*process, error) {
		return start(ctx, ns, g, "aria2c", append([]string{
			"--no-conf", "--enable-dht=false", "--bt-enable-lpd=false", "--seed-ratio=0.0", "--file-allocation=none", "--listen-port=6881",
			"--allow-overwrite=true", "--summary-interval=0", "--bt-tracker-interval=3", "--dir=" + dir, file,
		}, more...)...)
	}
	return delivery{
		name: "BitTorrent, aria2c",
		size: t.release,
		serve: func(ctx context.Context, s *swarm) error {
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
			return until("announced")(tracker)
		},
		fetch: func(ctx context.Context, _ *swarm, h *host, g *gate, out string) (*process, error) {
			return aria(ctx, h.ns, g, filepath.Dir(out), "--on-bt-download-complete=/bin/echo")
		},
		done: until("/rootfs"), // the echo of what is complete
	}, nil
}
