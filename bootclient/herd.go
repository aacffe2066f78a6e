package bootclient

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"time"

	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/phaseboot/phaseboot/cas"
)

const (
	pollPause   = 150 * time.Millisecond // between questions to one neighbour
	pollEach    = 10 * time.Millisecond  // … for each neighbour, when they are many
	pollAll     = 4                      // every so many questions are about all parts
	originPause = time.Second            // before a source that is no neighbour is asked whether it is one now
	haveLimit   = 2 * time.Second        // for one answer

	idleMember   = 700 * time.Millisecond // without a new leaf, before others take over a machine's share
	muteMember   = 2 * time.Second        // without an answer, the same
	newcomer     = time.Second            // a peer that has not said yet whether it is a neighbour counts as one
	trial        = 250 * time.Millisecond // for the first block of a member whose word is to count
	memberStall  = 1500 * time.Millisecond
	maxStrikes   = 2
	distrust     = 5 * time.Second // after maxStrikes, doubled
	slowOrigin   = 4               // times what an origin takes for a leaf, before a machine counts as idle
	maxDistrusts = 3               // doublings of distrust: it ends well within the patience of a fetch
)

// A herd is this machine among neighbours that fetch, or have, the same release. Each
// tells which leaves it has (gateway.Client.Have), and nobody tells who fetches what:
//
// A leaf that a neighbour has is asked of neighbours. One that nobody has is asked of
// an origin, a source that does not tell, by the machine whose hash of (peer ID, leaf
// CID) is the highest. All machines compute that alike, so that an origin sends each
// leaf about once. A machine that gets nothing new for a while is left out, and the next
// in the order takes over: whoever is dead costs that while. One that lies is asked like
// others, but once it kept its first block back nobody leaves anything to it; nor does
// who has nothing else to wait for than what it owes.
type herd struct {
	self    uint64
	parts   []*part
	members []*member
	company bool     // there are members that are believed
	crew    []uint64 // who shares now, this machine included
	own     []set    // leaves that this machine asks origins for, by part
	held    []set    // leaves that neighbours have
	latency time.Duration
}

// A member is a neighbour that tells what it has.
type member struct {
	seat     *seat
	id       uint64
	have     []set
	count    int
	progress time.Time // when it last had more
	told     time.Time // when it last said what it has
	strikes  int
	lapses   int       // times that it was not believed
	doubted  bool      // it gave nothing when it was asked, and nothing since
	until    time.Time // it is not believed before
}

// newHerd returns nil where there can be no neighbours.
func newHerd(h *hub, parts []*part) *herd {
	if h.node == nil {
		return nil
	}
	d := &herd{self: nameHash(string(h.node.ID())), parts: parts, own: make([]set, len(parts)), held: make([]set, len(parts))}
	for k, p := range parts {
		d.held[k] = newSet(len(p.leaves))
	}
	d.divide([]uint64{d.self})
	return d
}

// idOf is the binary peer ID of a source, as herd.self is made of one.
func idOf(s *source) string {
	id, err := peer.Decode(s.key)
	if err != nil {
		return s.key
	}
	return string(id)
}

func nameHash(id string) uint64 {
	sum := sha256.Sum256([]byte(id))
	return binary.BigEndian.Uint64(sum[:])
}

// watch asks one source again and again which leaves it has. One that does not tell has
// everything, or says for each block that it does not have it.
func (f *fetch) watch(ctx context.Context, st *seat) {
	f.peers.Add(1)
	tags := make([]string, len(f.parts))
	for round := 0; !st.src.isBanned(); round++ {
		pause := originPause
		for _, k := range f.toAsk(round) {
			p := f.parts[k]
			actx, cancel := context.WithTimeout(ctx, haveLimit)
			bitmap, tag, err := st.src.have(actx, p.CID, len(p.leaves), tags[k])
			cancel()
			if err == nil {
				pause, tags[k] = pollPause, tag
				f.post(ctx, func() error { f.queue.herd.tell(st, k, bitmap, time.Now()); return nil })
			} else if !errors.Is(err, fs.ErrNotExist) {
				break
			}
		}
		f.post(ctx, func() error { st.joined = true; return nil })
		select {
		case <-time.After(max(pause, f.crowd())):
		case <-st.src.banned:
		case <-ctx.Done():
			return
		}
	}
}

// toAsk lists the parts that a question is about: mostly the one with the most to come.
func (f *fetch) toAsk(round int) []int {
	var all []int
	most, bytes := -1, int64(-1)
	for k, p := range f.parts {
		if n := p.toCome.Load(); n > 0 {
			all = append(all, k)
			if n > bytes {
				most, bytes = k, n
			}
		}
	}
	if round%pollAll == 0 || most < 0 {
		return all
	}
	return []int{most}
}

// crowd is the least pause of one question to each of many neighbours.
func (f *fetch) crowd() time.Duration { return time.Duration(f.peers.Load()) * pollEach }

// tell takes what a neighbour says it has; a nil bitmap says that nothing changed.
func (d *herd) tell(st *seat, k int, bitmap []byte, now time.Time) {
	m := st.member
	if m == nil {
		m = &member{seat: st, id: nameHash(idOf(st.src)), have: make([]set, len(d.parts)), progress: now}
		st.member, st.lacks = m, make([]set, len(d.parts))
		d.members = append(d.members, m)
		d.company = true
	}
	m.told = now
	if bitmap == nil {
		return
	}
	have := setOf(len(d.parts[k].leaves), bitmap)
	if m.have[k] != nil && !have.contains(m.have[k]) {
		m.strike(maxStrikes, now)
	}
	m.have[k] = have
	count := 0
	for _, s := range m.have {
		count += s.count()
	}
	if count > m.count {
		m.progress = now
	}
	m.count = count
	if m.vouches(now) {
		d.held[k].join(have)
	}
}

// believed reports whether what a member says counts.
func (m *member) believed(now time.Time) bool {
	return !m.seat.src.isBanned() && !now.Before(m.until)
}

// vouches reports whether origins are not asked for what a member says it has.
func (m *member) vouches(now time.Time) bool { return m.believed(now) && !m.doubted }

// works reports whether a member got something new lately, as far as it has said: a
// machine that has much to do answers late, and is not idle for that.
func (m *member) works(limit time.Duration, now time.Time) bool {
	return m.told.Sub(m.progress) < limit && now.Sub(m.told) < max(muteMember, limit)
}

// strike counts against a member that did not do what it said.
func (m *member) strike(n int, now time.Time) {
	m.doubted = true
	if m.strikes += n; m.strikes < maxStrikes {
		return
	}
	m.strikes = maxStrikes - 1
	m.until = now.Add(distrust << min(m.lapses, maxDistrusts))
	m.lapses++
}

// look drops what members do not deliver, and divides anew when there are others to
// share with than before.
func (d *herd) look(q *queue, now time.Time) {
	if d == nil {
		return
	}
	limit := max(idleMember, slowOrigin*d.latency, d.stalled(q, now))
	if len(q.jobs) == 0 && now.Sub(q.last) > limit {
		d.doubtWhoOwes()
	}
	for _, held := range d.held {
		clear(held)
	}
	crew := []uint64{d.self}
	d.company = false
	for _, m := range d.members {
		if !m.believed(now) {
			continue
		}
		d.company = true
		for k, have := range m.have {
			if m.vouches(now) {
				d.held[k].join(have)
			}
		}
		if m.vouches(now) && m.works(limit, now) && !d.complete(m) {
			crew = append(crew, m.id)
		}
	}
	for _, st := range q.seats {
		if st.src.isPeer() && !st.joined && now.Sub(st.since) < newcomer {
			d.company = true
			crew = append(crew, nameHash(idOf(st.src)))
		}
	}
	slices.Sort(crew)
	if !slices.Equal(crew, d.crew) {
		d.divide(crew)
	}
}

// doubtWhoOwes leaves nothing more to the members whose turn it is with what nobody has:
// nothing came from anybody for a while, so they keep it back.
func (d *herd) doubtWhoOwes() {
	for k, p := range d.parts {
		for i, l := range p.leaves {
			if !p.waiting.has(i) || d.own[k].has(i) || d.held[k].has(i) {
				continue
			}
			leaf := orderOf(l.CID)
			for _, m := range d.members {
				m.doubted = m.doubted || slices.Contains(d.crew, m.id) && first(m.id, d.crew, leaf)
			}
		}
	}
}

// orderOf is what the order of the machines for a leaf is made of.
func orderOf(c cid.Cid) uint64 {
	name := c.KeyString()
	return binary.BigEndian.Uint64([]byte(name[len(name)-8:]))
}

// complete reports whether a member says that it has everything, and so asks nobody.
func (d *herd) complete(m *member) bool {
	all := 0
	for _, p := range d.parts {
		all += len(p.leaves)
	}
	return m.count == all
}

// stalled drops jobs at members that bring nothing, and returns how long an origin makes
// us wait now: nobody is idle who may be waiting as we are.
func (d *herd) stalled(q *queue, now time.Time) (waiting time.Duration) {
	for _, j := range q.jobs {
		quiet := now.Sub(j.heard)
		switch m := j.seat.member; {
		case m == nil && j.seat.proven:
			waiting = max(waiting, 2*quiet)
		case m == nil:
		case quiet > memberStall && !j.dropped && q.another(j.seat, now):
			j.seat.src.note(fmt.Errorf("no block for %s: %w", quiet.Round(time.Millisecond), cas.ErrUnreachable))
			m.strike(maxStrikes, now)
			j.drop()
		case quiet > trial && !j.seat.proven:
			m.doubted = true
		}
	}
	return waiting
}

// divide computes this machine's share among a crew.
func (d *herd) divide(crew []uint64) {
	d.crew = crew
	for k, p := range d.parts {
		d.own[k] = newSet(len(p.leaves))
		for i, l := range p.leaves {
			if first(d.self, crew, orderOf(l.CID)) {
				d.own[k].add(i)
			}
		}
	}
}

// first reports whether nobody of a crew comes before a machine in the order for a leaf.
func first(id uint64, crew []uint64, leaf uint64) bool {
	at := mix(id ^ leaf)
	return !slices.ContainsFunc(crew, func(other uint64) bool { return mix(other^leaf) > at })
}

// mix spreads a number, as the finalizer of splitmix64 does.
func mix(x uint64) uint64 {
	x ^= x >> 30
	x *= 0xbf58476d1ce4e5b9
	x ^= x >> 27
	x *= 0x94d049bb133111eb
	return x ^ x>>31
}

// restrict leaves of some what the seat may be asked for: of a neighbour what it has,
// of an origin this machine's share of what no neighbour has.
func (d *herd) restrict(st *seat, k int, some set, now time.Time) {
	m := st.member
	switch {
	case m != nil && (!m.believed(now) || m.have[k] == nil):
		clear(some)
	case m != nil:
		for w := range some {
			some[w] &= m.have[k][w]
		}
	case d.shares(st):
		for w := range some {
			some[w] &= d.own[k][w] &^ d.held[k][w]
		}
	}
}

// shares reports whether an origin is asked for a share only.
func (d *herd) shares(st *seat) bool {
	return d != nil && st.member == nil && d.company
}

// ended learns from a job that is over.
func (d *herd) ended(j *job, err error, now time.Time) {
	m := j.seat.member
	switch {
	case err == nil && m != nil:
		m.strikes, m.doubted = 0, false
	case err == nil && len(j.leaves) == 1:
		d.latency = (3*d.latency + now.Sub(j.began)) / 4
	case m != nil && errors.Is(err, fs.ErrNotExist):
		m.strike(1, now)
	case m != nil && !j.dropped && errors.Is(err, cas.ErrUnreachable) && !isBusy(err):
		m.strike(1, now)
	}
}
