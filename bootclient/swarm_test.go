package bootclient

import (
	"container/heap"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/phaseboot/phaseboot/cas"
)

// A world is a herd in simulated time: machines with the real queue and herd, a
// publisher with a thin line, neighbours with thick ones.
type world struct {
	now      time.Time
	events   events
	machines []*simMachine
	size     int64
	line     time.Duration // that a leaf occupies the publisher's line
	free     time.Time     // when the line is idle again
	sent     int           // leaves that left the publisher
	stopAt   int           // the publisher is gone after so many, 0: never
}

type simMachine struct {
	id     int
	part   *download
	queue  *queue
	origin *sourceState
	seats  map[int]*sourceState // neighbours by machine
	harm   string               // none: honest
	bits   bitfield             // what a hostile one says it has
	done   time.Time
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

func (w *world) in(d time.Duration, do func()) { heap.Push(&w.events, event{w.now.Add(d), do}) }

func newWorld(t *testing.T, machines int, harms []string, leaves int, line time.Duration) *world {
	w := &world{now: time.Now(), line: line, size: 140 << 10}
	for i := range machines {
		p := partOf(t, leaves, w.size)
		m := &simMachine{id: i, part: p, queue: newQueue([]*download{p}, w.now), seats: map[int]*sourceState{}}
		if i < len(harms) {
			m.harm = harms[i]
		}
		m.queue.shuffled = true
		m.queue.swarm = &swarm{self: nameHash(simName(i)), downloads: m.queue.downloads, owned: make([]bitfield, 1), available: []bitfield{newBitfield(leaves)}}
		m.queue.swarm.assign([]uint64{m.queue.swarm.self})
		m.origin = m.queue.addSource(mirrorNamed("publisher"))
		m.origin.joined = true
		m.bits = newBitfield(leaves)
		w.machines = append(w.machines, m)
	}
	for _, m := range w.machines {
		if m.harm != "" {
			w.in(0, func() { w.lie(m) })
			continue
		}
		w.in(0, func() { w.step(m) })
		w.in(0, func() { w.look(m) })
		for _, other := range w.machines {
			if other != m { // mDNS takes a while, another one for each
				w.in(time.Duration(rand.Int64N(int64(time.Second))), func() { w.meet(m, other) })
			}
		}
	}
	return w
}

func simName(i int) string { return fmt.Sprintf("machine %d", i) }

func (w *world) meet(m, other *simMachine) {
	s := newSource(kindMDNS, simName(other.id), nil)
	s.ways = mirrorNamed("x").ways
	st := m.queue.addSource(s)
	st.joined = true
	m.seats[other.id] = st
	w.poll(m, other, st)
}

func (w *world) poll(m, other *simMachine, st *sourceState) {
	if m.queue.left == 0 {
		return
	}
	have := other.bits
	if other.harm == "" {
		have = fullBitfield(len(m.part.leaves))
		have.without(other.part.missing)
	}
	m.queue.swarm.update(st, 0, bitmapOf(have, len(m.part.leaves)), w.now)
	w.step(m)
	w.in(pollPause, func() { w.poll(m, other, st) })
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

// The harms of a hostile machine: it gives nothing of what it says it has. It says that
// it gets one leaf after the other, or that it has all of them from the beginning.
const (
	refuses   = "says no"
	mute      = "never answers"
	muteAll   = "has all, never answers"
	wrongAll  = "has all, gives wrong bytes"
	refuseAll = "has all, says no"
	idle      = "has what others have, never asks"
)

// lie keeps the bits of a hostile machine.
func (w *world) lie(m *simMachine) {
	if m.harm == idle { // one leaf more each time, of those that an honest machine has
		for i := range m.part.leaves {
			all := true
			for _, o := range w.machines {
				all = all && (o.harm != "" || !o.part.missing.has(i))
			}
			if all && !m.bits.has(i) {
				m.bits.add(i)
				break
			}
		}
		w.in(100*time.Millisecond, func() { w.lie(m) })
		return
	}
	if m.harm != refuses && m.harm != mute {
		m.bits = fullBitfield(len(m.part.leaves))
		return
	}
	m.bits.add(rand.IntN(len(m.part.leaves)))
	w.in(100*time.Millisecond, func() { w.lie(m) })
}

func (w *world) look(m *simMachine) {
	if m.queue.left > 0 {
		m.queue.swarm.refresh(m.queue, w.now)
		w.step(m)
		w.in(fetchTick, func() { w.look(m) })
	}
}

// step starts what a machine can start now.
func (w *world) step(m *simMachine) {
	for j := m.queue.next(w.now); j != nil; j = m.queue.next(w.now) {
		j.cancel = func() {}
		if j.source == m.origin {
			w.fromPublisher(m, j, 0)
			continue
		}
		w.fromNeighbour(m, j)
	}
}

// fromPublisher sends the leaves of a job one after the other over the line.
func (w *world) fromPublisher(m *simMachine, j *job, i int) {
	if w.stopAt > 0 && w.sent >= w.stopAt {
		w.in(time.Millisecond, func() {
			j.source.src.failed(cas.ErrUnreachable)
			w.end(m, j, cas.ErrUnreachable)
		})
		return
	}
	if w.free.Before(w.now) {
		w.free = w.now
	}
	w.free = w.free.Add(w.line)
	w.sent++
	w.in(w.free.Sub(w.now), func() {
		m.queue.landed(j, j.leaves[i], w.now)
		if i+1 < len(j.leaves) {
			w.fromPublisher(m, j, i+1)
			return
		}
		w.end(m, j, nil)
	})
}

// fromNeighbour takes a few milliseconds.
func (w *world) fromNeighbour(m *simMachine, j *job) {
	var other *simMachine
	for id, st := range m.seats {
		if st == j.source {
			other = w.machines[id]
		}
	}
	if other.harm != "" {
		wait := 10 * time.Second
		if other.harm != mute && other.harm != muteAll {
			wait = 5 * time.Millisecond
		}
		j.cancel = func() { w.in(0, func() { w.end(m, j, cas.ErrUnreachable) }) }
		w.in(wait, func() {
			if other.harm == wrongAll {
				j.source.src.ban(cas.ErrCorrupt)
				w.end(m, j, cas.ErrCorrupt)
			} else if !j.dropped {
				w.end(m, j, cas.NotFound(j.download.leaves[j.leaves[0]].CID))
			}
		})
		return
	}
	w.in(time.Duration(len(j.leaves))*5*time.Millisecond, func() {
		for _, i := range j.leaves {
			m.queue.landed(j, i, w.now)
		}
		w.end(m, j, nil)
	})
}

func (w *world) end(m *simMachine, j *job, err error) {
	m.queue.ended(j, err, w.now)
	if m.queue.left == 0 && m.done.IsZero() {
		m.done = w.now
	}
	w.step(m)
}

// run returns how long the last honest machine took, and how often the publisher sent
// the release.
func (w *world) run(t *testing.T) (took time.Duration, copies float64) {
	began := w.now
	for honest := true; honest; {
		if len(w.events) == 0 || w.now.Sub(began) > 5*time.Minute {
			t.Fatalf("nothing happens any more after %s", w.now.Sub(began))
		}
		e := heap.Pop(&w.events).(event)
		w.now = e.at
		e.do()
		honest = false
		for _, m := range w.machines {
			honest = honest || m.harm == "" && m.done.IsZero()
		}
	}
	return w.now.Sub(began), float64(w.sent) / float64(len(w.machines[0].part.leaves))
}

func TestAHerdCostsThePublisherLittleMoreThanOneMachine(t *testing.T) {
	const leaves = 500
	const line = 11400 * time.Microsecond // for a leaf of 140 KiB at 100 Mbit/s
	for name, row := range map[string]struct {
		machines int
		harms    []string
		line     time.Duration
		stop     float64 // of the release
		copies   float64
		took     float64 // of what one alone takes
	}{
		"16":                           {16, nil, line, 0, 1.3, 1.25},
		"16, 3 of them lie":            {16, []string{refuses, mute, refuses}, line, 0, 1.4, 1.25},
		"16, 3 of them have all":       {16, []string{wrongAll, muteAll, refuseAll}, line, 0, 1.4, 1.25},
		"16, 3 of them idle":           {16, []string{idle, idle, idle}, line, 0, 1.4, 2.5}, // for a while they are waited for
		"16, the publisher stops":      {16, nil, line, 1.25, 1.25, 1.25},
		"8 behind a third of the line": {8, nil, 3 * line, 0, 1.3, 1.25},
		"2":                            {2, nil, line, 0, 1.3, 1.25},
		"one alone":                    {1, nil, line, 0, 1, 1.25},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, row.machines, row.harms, leaves, row.line)
			w.stopAt = int(row.stop * leaves)
			took, copies := w.run(t)
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
