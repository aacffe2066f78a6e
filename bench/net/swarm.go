package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"
)

// A delivery is how one tool brings a release to many machines.
type delivery struct {
	name  string
	size  int64 // bytes that each machine wants
	serve func(ctx context.Context, s *swarm) error
	fetch func(ctx context.Context, s *swarm, h *host, g *gate, out string) (*process, error)
	done  func(p *process) error // returns when the machine has all of it; nil: at its end
	repo  *repository            // what machines tell about, nil where they do not
}

// A swarm is a publisher behind a thin line, machines, and one host more.
type swarm struct {
	t         *tool
	lan       *segment
	publisher *host
	other     *host
	machines  []*host   // honest ones
	hostile   []harmful // and the others
	daemons   []*process
}

// A harmful host does one harm.
type harmful struct {
	*host
	harm string
}

// An outcome is one run of a swarm.
type outcome struct {
	last   time.Duration // until the last machine had all
	copies float64       // what left the publisher, in releases
	busy   float64       // of all cores
	failed int
	why    error // of the first that failed
	stop   *stop // of the publisher, nil when it served to the end
}

// run lets machines start together and waits for the last. When after is more than 0
// the publisher is killed and cut off as soon as all of the release is among the machines,
// or so many copies have left it.
func (d delivery) run(ctx context.Context, t *tool, machines int, bad []string, after float64) (o outcome, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	s, err := t.newSwarm(ctx, machines, bad)
	if err != nil {
		return o, err
	}
	defer s.remove()
	if err := d.serve(ctx, s); err != nil {
		return o, err
	}
	sent, _, err := s.publisher.traffic()
	if err != nil {
		return o, err
	}
	copies := func() float64 {
		now, _, _ := s.publisher.traffic()
		return float64(now-sent) / float64(d.size)
	}
	watch := func(context.Context, time.Time) *stop { return nil }
	if after > 0 {
		h, err := d.repo.holding(ctx, len(s.machines))
		if err != nil {
			return o, err
		}
		watch = func(ctx context.Context, begun time.Time) *stop { return s.vanish(ctx, h, after, copies, begun) }
	}
	before := processors()
	if err := d.all(ctx, s, &o, watch); err != nil {
		return o, err
	}
	o.busy, o.copies = processors().since(before), copies()
	return o, nil
}

func (t *tool) newSwarm(ctx context.Context, machines int, bad []string) (*swarm, error) {
	l, err := newSegment(ctx, machines+2)
	if err != nil {
		return nil, err
	}
	honest := machines - len(bad)
	s := &swarm{t: t, lan: l, publisher: l.hosts[0], other: l.hosts[1], machines: l.hosts[2 : 2+honest]}
	for i, harm := range bad {
		s.hostile = append(s.hostile, harmful{l.hosts[2+honest+i], harm})
	}
	if err := s.publisher.thin(ctx, t.rate); err != nil {
		s.remove()
		return nil, err
	}
	return s, nil
}

func (s *swarm) remove() {
	for _, p := range s.daemons {
		p.stop()
	}
	s.lan.remove()
}

// all starts every machine at a gate, opens it, and waits. Watch runs meanwhile: its context
// ends with the machines.
func (d delivery) all(ctx context.Context, s *swarm, o *outcome, watch func(ctx context.Context, begun time.Time) *stop) error {
	g, err := newGate()
	if err != nil {
		return err
	}
	running := make([]*process, 0, len(s.machines))
	for _, h := range s.machines {
		out, err := s.t.fetched()
		if err != nil {
			return err
		}
		defer os.RemoveAll(out)
		p, err := d.fetch(ctx, s, h, g, filepath.Join(out, "out"))
		if err != nil {
			return err
		}
		running = append(running, p)
	}
	begun := g.release()
	during, over := context.WithCancel(ctx)
	defer over()
	var watching sync.WaitGroup
	watching.Go(func() { o.stop = watch(during, begun) })
	took, errs := make([]time.Duration, len(running)), make([]error, len(running))
	var wait sync.WaitGroup
	for i, p := range running {
		wait.Go(func() {
			if d.done == nil {
				errs[i] = p.finish()
			} else {
				errs[i] = d.done(p)
			}
			took[i] = time.Since(begun)
		})
	}
	wait.Wait()
	over()
	watching.Wait()
	for i, p := range running {
		if d.done != nil {
			p.stop()
		}
		o.last = max(o.last, took[i])
		if errs[i] != nil {
			o.failed++
			o.why = errors.Join(o.why, errs[i])
		}
	}
	return ctx.Err()
}

// vanish pulls the publisher's cable and kills it, as soon as machines have all of the
// release among them or so many copies were sent. It returns nil when ctx ends before.
func (s *swarm) vanish(ctx context.Context, h *holding, after float64, copies func() float64, begun time.Time) *stop {
	h.follow(ctx, s.machines)
	why := ""
	for why == "" {
		select {
		case <-h.complete:
			why = "each leaf at some machine"
		case <-time.After(askPause):
			if copies() >= after {
				why = "not each leaf at a machine yet"
			}
		case <-ctx.Done():
			return nil
		}
	}
	s.publisher.cut(ctx)
	st := &stop{why: why, after: time.Since(begun), copies: copies()}
	s.daemons[0].Process.Kill()
	st.lacking, st.part = h.missing()
	return st
}

// until returns when a process has said so on its stdout.
func until(words string) func(*process) error {
	return func(p *process) error {
		for {
			line, err := p.out.ReadString('\n')
			if strings.Contains(line, words) {
				return nil
			}
			if err != nil {
				return fmt.Errorf("%s: ended without %q: %w: %s", p.name, words, err, p.log.String())
			}
		}
	}
}
