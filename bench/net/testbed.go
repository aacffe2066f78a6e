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

// A delivery is one way to bring a release to machines.
type delivery struct {
	name  string
	size  int64 // bytes that each machine needs
	serve func(ctx context.Context, s *testbed) error
	fetch func(ctx context.Context, s *testbed, h *host, g *barrier, out string) (*process, error)
	done  func(p *process) error // returns when the machine is complete; nil: when its process ends
	repo  *repository            // release whose bitfields machines report, or nil
}

// A testbed is a publisher with a slow port, machines, and one more host.
type testbed struct {
	t         *tool
	lan       *segment
	publisher *host
	other     *host
	machines  []*host // the good ones
	hostile   []hostileHost
	daemons   []*process
}

// A hostileHost makes one kind of attack.
type hostileHost struct {
	*host
	attack string
}

// An outcome is the result of one run.
type outcome struct {
	last   time.Duration // until the last machine was complete
	copies float64       // bytes sent by the publisher, in releases
	busy   float64       // busy share of all cores
	failed int           // machines
	why    error         // of all failures
	stop   *stop         // of the publisher, nil if it was not stopped
}

// run starts the machines at once and waits for the last. If after is positive, the publisher
// is killed and disconnected when the machines together have the whole release, or when it
// has sent this number of copies.
func (d delivery) run(ctx context.Context, t *tool, machines int, bad []string, after float64) (o outcome, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	s, err := t.newTestbed(ctx, machines, bad)
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
		h, err := d.repo.availability(ctx, len(s.machines))
		if err != nil {
			return o, err
		}
		watch = func(ctx context.Context, begun time.Time) *stop { return s.stopPublisher(ctx, h, after, copies, begun) }
	}
	before := readCPUTimes()
	if err := d.all(ctx, s, &o, watch); err != nil {
		return o, err
	}
	o.busy, o.copies = readCPUTimes().busyShare(before), copies()
	return o, nil
}

func (t *tool) newTestbed(ctx context.Context, machines int, bad []string) (*testbed, error) {
	l, err := newSegment(ctx, machines+2)
	if err != nil {
		return nil, err
	}
	good := machines - len(bad)
	s := &testbed{t: t, lan: l, publisher: l.hosts[0], other: l.hosts[1], machines: l.hosts[2 : 2+good]}
	for i, attack := range bad {
		s.hostile = append(s.hostile, hostileHost{l.hosts[2+good+i], attack})
	}
	if err := s.publisher.limitRate(ctx, t.rate); err != nil {
		s.remove()
		return nil, err
	}
	return s, nil
}

func (s *testbed) remove() {
	for _, p := range s.daemons {
		p.stop()
	}
	s.lan.remove()
}

// all starts every machine behind a barrier, releases it, and waits for the machines. watch
// runs meanwhile; its context ends with the machines.
func (d delivery) all(ctx context.Context, s *testbed, o *outcome, watch func(ctx context.Context, begun time.Time) *stop) error {
	g, err := newBarrier()
	if err != nil {
		return err
	}
	running := make([]*process, 0, len(s.machines))
	for _, h := range s.machines {
		out, err := s.t.outputDir()
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

// stopPublisher disconnects and kills the publisher when the machines together have the whole
// release, or when it has sent after copies. It returns nil if ctx ends before.
func (s *testbed) stopPublisher(ctx context.Context, h *availability, after float64, copies func() float64, begun time.Time) *stop {
	h.poll(ctx, s.machines)
	why := ""
	for why == "" {
		select {
		case <-h.complete:
			why = "every leaf on some machine"
		case <-time.After(pollPause):
			if copies() >= after {
				why = "some leaves on no machine yet"
			}
		case <-ctx.Done():
			return nil
		}
	}
	s.publisher.disconnect(ctx)
	st := &stop{why: why, after: time.Since(begun), copies: copies()}
	s.daemons[0].Process.Kill()
	st.lacking, st.part = h.missing()
	return st
}

// waitForLine returns a function that waits until a process prints a line with words.
func waitForLine(words string) func(*process) error {
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
