package fetch

import (
	"container/heap"
	"context"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/phaseboot/phaseboot/bootclient/peers"
	"github.com/phaseboot/phaseboot/bootclient/timing"
	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/internal/gateway"
)

// A simulation is a swarm in simulated time: a discrete-event simulation in which only the
// network is a model. Every machine has the real queue and the real swarm, so that the test
// measures the assignment of leaves and nothing else.
//
// The model:
//   - The publisher's line sends one leaf at a time and takes the same time for each: 11.4 ms
//     for 140 KiB, the mean leaf of a root filesystem, at 100 Mbit/s. Requests wait in one FIFO.
//   - The lines between machines are never full: a leaf takes 5 ms.
//   - All machines start at once. Each finds each other machine by mDNS after a random time
//     within the first second. From then on it polls that machine's bitfield every timing.PollPause.
//   - Nothing is lost, hashing and disks take no time.
//   - A hostile machine announces a bitfield and sends no good block; see the behaviors below.
//
// A run differs from another by its random numbers alone. Two figures are compared with limits:
// the copies of the release that the publisher sent (1 is the least), and the time of the last
// honest machine, as a multiple of the time of one machine alone (1 is the least).
type simulation struct {
	now      time.Time
	events   events
	machines []*simMachine
	size     int64
	line     time.Duration // time of a leaf on the publisher's line
	free     time.Time     // when the line is idle again
	sent     int           // leaves sent by the publisher
	start    time.Time     // of the fetches; before it, machines search and know no bitfields
	stopAt   int           // leaves after which the publisher stops, 0: never
}

type simMachine struct {
	id       int
	download *download
	queue    *queue
	origin   *sourceState
	peers    map[int]*sourceState // by machine
	behavior string               // "": honest
	claimed  bitfield             // what a hostile machine announces
	done     time.Time
}

type event struct {
	at time.Time
	do func()
}

type events []event

func (e events) Len() int           { return len(e) }
func (e events) Less(i, j int) bool { return e[i].at.Before(e[j].at) }
func (e events) Swap(i, j int)      { e[i], e[j] = e[j], e[i] }
func (e *events) Push(x any)        { *e = append(*e, x.(event)) }
func (e *events) Pop() any {
	last := (*e)[len(*e)-1]
	*e = (*e)[:len(*e)-1]
	return last
}

func (s *simulation) in(d time.Duration, do func()) { heap.Push(&s.events, event{s.now.Add(d), do}) }

func newSimulation(t *testing.T, machines int, behaviors []string, leaves int, line, search time.Duration, early int64) *simulation {
	s := &simulation{now: time.Now(), line: line, size: 140 << 10}
	s.start = s.now.Add(search)
	for i := range machines {
		dl := partOf(t, leaves, s.size)
		m := &simMachine{id: i, download: dl, queue: newQueue([]*download{dl}, s.now), peers: map[int]*sourceState{}}
		if i < len(behaviors) {
			m.behavior = behaviors[i]
		}
		m.queue.shuffled = true
		m.queue.swarm = &swarm{self: nameHash(simName(i)), downloads: m.queue.downloads, owned: make([]bitfield, 1), available: []bitfield{newBitfield(leaves)}}
		m.queue.swarm.assign([]uint64{m.queue.swarm.self})
		m.origin = m.queue.addSource(mirrorNamed("publisher"))
		m.origin.ready = true
		m.claimed = newBitfield(leaves)
		s.machines = append(s.machines, m)
	}
	for _, m := range s.machines {
		if m.behavior != "" {
			s.in(0, func() { s.claim(m) })
			continue
		}
		s.in(search, func() { s.step(m) })
		s.in(search, func() { s.refresh(m) })
		s.in(0, func() { s.early(m, rand.Perm(leaves), early) })
		for _, other := range s.machines {
			if other != m { // mDNS finds each machine after a random time
				s.in(time.Duration(rand.Int64N(int64(time.Second))), func() { s.discover(m, other) })
			}
		}
	}
	return s
}

// early fetches leaves one at a time, as Early.Fetch does. The publisher sends a leaf also when its
// request ends with the search.
func (s *simulation) early(m *simMachine, order []int, left int64) {
	if left < 0 || !s.now.Before(s.start) {
		return
	}
	s.publisherSends(func() {
		if s.now.Before(s.start) {
			m.download.complete(order[0])
			m.queue.left--
			s.early(m, order[1:], left-s.size)
		}
	})
}

func simName(i int) string { return fmt.Sprintf("machine %d", i) }

func (s *simulation) discover(m, other *simMachine) {
	src := peers.NewSource(peers.KindMDNS, simName(other.id), nil)
	src.SetEndpoints([]*peers.Endpoint{peers.GatewayEndpoint("x", &gateway.Client{})})
	st := m.queue.addSource(src)
	m.peers[other.id] = st
	s.poll(m, other, st)
}

func (s *simulation) poll(m, other *simMachine, st *sourceState) {
	if s.now.Before(s.start) {
		s.in(timing.PollPause, func() { s.poll(m, other, st) })
		return
	}
	if m.queue.left == 0 {
		return
	}
	have := other.claimed
	if other.behavior == "" {
		have = fullBitfield(len(m.download.leaves))
		have.without(other.download.missing)
	}
	m.queue.swarm.update(st, 0, bitmapOf(have, len(m.download.leaves)), s.now)
	st.ready = true
	s.step(m)
	s.in(timing.PollPause, func() { s.poll(m, other, st) })
}

func bitmapOf(s bitfield, n int) []byte {
	out := make([]byte, (n+7)/8)
	for i := range n {
		if s.has(i) {
			out[i/8] |= 0x80 >> (i % 8)
		}
	}
	return out
}

// The behaviors of a hostile machine. It sends none of the leaves that it claims: its bitfield
// grows leaf by leaf, or is full from the beginning.
const (
	refusing     = "grows, answers not found"
	silent       = "grows, never answers"
	silentFull   = "full, never answers"
	corruptFull  = "full, sends wrong bytes"
	refusingFull = "full, answers not found"
	idle         = "claims leaves that all honest machines have, requests nothing"
)

// claim updates the bitfield of a hostile machine.
func (s *simulation) claim(m *simMachine) {
	if m.behavior == idle { // one more leaf each time
		for i := range m.download.leaves {
			all := true
			for _, o := range s.machines {
				all = all && (o.behavior != "" || !o.download.missing.has(i))
			}
			if all && !m.claimed.has(i) {
				m.claimed.add(i)
				break
			}
		}
		s.in(100*time.Millisecond, func() { s.claim(m) })
		return
	}
	if m.behavior != refusing && m.behavior != silent {
		m.claimed = fullBitfield(len(m.download.leaves))
		return
	}
	m.claimed.add(rand.IntN(len(m.download.leaves)))
	s.in(100*time.Millisecond, func() { s.claim(m) })
}

func (s *simulation) refresh(m *simMachine) {
	if m.queue.left > 0 {
		m.queue.swarm.refresh(m.queue, s.now)
		s.step(m)
		s.in(timing.FetchTick, func() { s.refresh(m) })
	}
}

// step starts all requests that a machine can start now.
func (s *simulation) step(m *simMachine) {
	for j := m.queue.next(s.now); j != nil; j = m.queue.next(s.now) {
		j.cancel = func() {}
		if j.source == m.origin {
			s.fromPublisher(m, j, 0)
			continue
		}
		s.fromPeer(m, j)
	}
}

// publisherSends sends one leaf over the publisher's line, after all others, and then calls arrived.
func (s *simulation) publisherSends(arrived func()) {
	if s.free.Before(s.now) {
		s.free = s.now
	}
	s.free = s.free.Add(s.line)
	s.sent++
	s.in(s.free.Sub(s.now), arrived)
}

// fromPublisher sends the leaves of a job one by one over the publisher's line.
func (s *simulation) fromPublisher(m *simMachine, j *job, i int) {
	if s.stopAt > 0 && s.sent >= s.stopAt {
		s.in(time.Millisecond, func() {
			j.source.src.RecordError(context.Background(), cas.ErrUnreachable)
			s.end(m, j, cas.ErrUnreachable)
		})
		return
	}
	s.publisherSends(func() {
		m.queue.leafDone(j, j.leaves[i], s.now)
		if i+1 < len(j.leaves) {
			s.fromPublisher(m, j, i+1)
			return
		}
		s.end(m, j, nil)
	})
}

// fromPeer sends the leaves of a job in 5 ms each, or does what a hostile machine does.
func (s *simulation) fromPeer(m *simMachine, j *job) {
	var other *simMachine
	for id, st := range m.peers {
		if st == j.source {
			other = s.machines[id]
		}
	}
	if other.behavior != "" {
		wait := 10 * time.Second
		if other.behavior != silent && other.behavior != silentFull {
			wait = 5 * time.Millisecond
		}
		j.cancel = func() { s.in(0, func() { s.end(m, j, cas.ErrUnreachable) }) }
		s.in(wait, func() {
			if other.behavior == corruptFull {
				j.source.src.RecordError(context.Background(), cas.ErrCorrupt)
				s.end(m, j, cas.ErrCorrupt)
			} else if !j.dropped {
				s.end(m, j, cas.NotFound(j.download.leaves[j.leaves[0]].CID))
			}
		})
		return
	}
	s.in(time.Duration(len(j.leaves))*5*time.Millisecond, func() {
		for _, i := range j.leaves {
			m.queue.leafDone(j, i, s.now)
		}
		s.end(m, j, nil)
	})
}

func (s *simulation) end(m *simMachine, j *job, err error) {
	m.queue.jobDone(j, err, s.now)
	if m.queue.left == 0 && m.done.IsZero() {
		m.done = s.now
	}
	s.step(m)
}

// run returns the time of the last honest machine, and the copies of the release that the
// publisher sent.
func (s *simulation) run(t *testing.T) (took time.Duration, copies float64) {
	began := s.now
	for honest := true; honest; {
		if len(s.events) == 0 || s.now.Sub(began) > 5*time.Minute {
			t.Fatalf("not done after %s", s.now.Sub(began))
		}
		e := heap.Pop(&s.events).(event)
		s.now = e.at
		e.do()
		honest = false
		for _, m := range s.machines {
			honest = honest || m.behavior == "" && m.done.IsZero()
		}
	}
	return s.now.Sub(began), float64(s.sent) / float64(len(s.machines[0].download.leaves))
}

// The limits are above the worst of 60 runs of each row, so that chance alone does not fail the
// test. 16 honest machines took 1.08–1.14 copies and 1.09–1.15 × the time of one alone. With 3
// hostile machines, or a publisher that stops after 1.25 copies, it was at most 1.16 copies and
// 1.20 × the time. 3 idle machines cost 1.7 × the time: they own leaves until they count as idle.
// The copies above 1 are sent mostly in the first second, before the machines know each other.
func TestASwarmCostsThePublisherLittleMoreThanOneMachine(t *testing.T) {
	const leaves = 500
	const line = 11400 * time.Microsecond // of a leaf of 140 KiB at 100 Mbit/s
	for name, row := range map[string]struct {
		machines  int
		behaviors []string
		line      time.Duration
		stop      float64 // of the publisher, after so many copies
		copies    float64 // at most
		took      float64 // at most, as a multiple of the time of one alone
	}{
		"16":                           {16, nil, line, 0, 1.3, 1.25},
		"16, 3 of them hostile":        {16, []string{refusing, silent, refusing}, line, 0, 1.4, 1.25},
		"16, 3 of them claim all":      {16, []string{corruptFull, silentFull, refusingFull}, line, 0, 1.4, 1.25},
		"16, 3 of them idle":           {16, []string{idle, idle, idle}, line, 0, 1.4, 2.5},
		"16, the publisher stops":      {16, nil, line, 1.25, 1.25, 1.25},
		"8 behind a third of the line": {8, nil, 3 * line, 0, 1.3, 1.25},
		"2":                            {2, nil, line, 0, 1.3, 1.25},
		"one alone":                    {1, nil, line, 0, 1, 1.25},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSimulation(t, row.machines, row.behaviors, leaves, row.line, 0, 0)
			s.stopAt = int(row.stop * leaves)
			took, copies := s.run(t)
			alone := leaves * row.line
			t.Logf("%s (%.2f of one alone), %.2f copies", took, float64(took)/float64(alone), copies)
			if copies > row.copies {
				t.Errorf("the publisher sent %.2f copies, want at most %.2f", copies, row.copies)
			}
			if limit := time.Duration(float64(alone) * row.took); took > limit {
				t.Errorf("took %s, want at most %s", took, limit)
			}
		})
	}
}

// Machines that fetch early leaves during the search, before they know each other, beside machines
// that wait for its end. docs/RATIONALE.md has the figures for more leaves and more machines.
func TestEarlyLeavesCostThePublisherLittle(t *testing.T) {
	const leaves = 500
	const line = 11400 * time.Microsecond // of a leaf of 140 KiB at 100 Mbit/s
	for name, row := range map[string]struct {
		machines int
		line     time.Duration
		copies   float64 // at most
	}{
		"16 at 100 Mbit/s": {16, line, 1.2},
		"16 at 1 Gbit/s":   {16, line / 10, 1.2},
		"32 at 1 Gbit/s":   {32, line / 10, 1.25},
		"one alone":        {1, line, 1.01},
	} {
		t.Run(name, func(t *testing.T) {
			run := func(early int64) (time.Duration, float64) {
				return newSimulation(t, row.machines, nil, leaves, row.line, timing.Usual.LookAround, early).run(t)
			}
			before, usual := run(0)
			took, copies := run(earlyBytes)
			t.Logf("%s and %.2f copies, without early leaves %s and %.2f", took, copies, before, usual)
			if copies > row.copies {
				t.Errorf("the publisher sent %.2f copies, want at most %.2f", copies, row.copies)
			}
		})
	}
}
