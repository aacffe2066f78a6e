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
	pollPause   = 150 * time.Millisecond // between two questions to one peer
	pollEach    = 10 * time.Millisecond  // … for each peer, when there are many
	pollAll     = 4                      // every n-th question is about all artifacts
	originPause = time.Second            // before a source without bitfields is asked again
	haveLimit   = 2 * time.Second        // for one answer

	idlePeer        = 700 * time.Millisecond // without a new leaf, before others take over a peer's share
	silentPeer      = 2 * time.Second        // without an answer, the same
	joinGrace       = time.Second            // a new peer counts as an active one before its first answer
	firstBlockLimit = 250 * time.Millisecond // for the first block of a peer, before it counts as snubbed
	stallLimit      = 1500 * time.Millisecond
	maxPenalties    = 2
	backoffFirst    = 5 * time.Second // after maxPenalties; doubles each time
	slowOrigin      = 4               // times what an origin takes for a leaf, before a peer counts as idle
	maxBackoffs     = 3               // doublings of the backoff, which ends well within the patience of a fetch
)

// A swarm is the set of peers that fetch, or have, the same release. Each peer reports
// its availability as one bitfield for each artifact (gateway.Client.Have). There is no
// coordinator: leaves are assigned by rendezvous hashing (highest random weight; Thaler and
// Ravishankar, 1998).
//
// A leaf that a peer has is requested from peers. A leaf that no peer has is requested from
// an origin, which is a source without a bitfield. Its owner requests it: the active peer
// with the highest hash of (peer ID, leaf CID). All peers compute the same owner, so an
// origin sends each leaf about once. A peer without progress for idlePeer leaves the active
// set, and the leaf's next owner takes over. A snubbed peer, which held back its first
// block, owns nothing. When no block arrives from any source, the owners of the
// remaining leaves count as snubbed too.
type swarm struct {
	self      uint64
	downloads []*download
	peers     []*swarmPeer
	hasPeers  bool       // there is a trusted peer
	active    []uint64   // hashes of the peer IDs of the active set, this machine included
	owned     []bitfield // leaves that this machine requests from origins, by artifact
	available []bitfield // leaves that reliable peers have, by artifact
	latency   time.Duration
}

// A swarmPeer is a source that reports its availability.
type swarmPeer struct {
	source       *sourceState
	id           uint64
	have         []bitfield
	count        int
	progress     time.Time // when its bitfields last grew
	answered     time.Time // when its last bitfield came
	penalties    int
	backoffs     int       // how many backoffs it has had
	snubbed      bool      // it gave no block to the last request
	backoffUntil time.Time // its bitfields do not count before
}

// newSwarm returns nil where there can be no peers.
func newSwarm(h *sourceSet, parts []*download) *swarm {
	if h.node == nil {
		return nil
	}
	d := &swarm{self: nameHash(string(h.node.ID())), downloads: parts, owned: make([]bitfield, len(parts)), available: make([]bitfield, len(parts))}
	for k, p := range parts {
		d.available[k] = newBitfield(len(p.leaves))
	}
	d.assign([]uint64{d.self})
	return d
}

// idOf is the binary peer ID of a source, from which swarm.self is computed too.
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

// watch asks one source for its bitfields until it is banned or ctx ends. A source without
// bitfields counts as complete, or answers "not found" for each block.
func (f *fetch) watch(ctx context.Context, st *sourceState) {
	f.peers.Add(1)
	tags := make([]string, len(f.downloads))
	for round := 0; !st.src.isBanned(); round++ {
		pause := originPause
		for _, k := range f.toAsk(round) {
			p := f.downloads[k]
			actx, cancel := context.WithTimeout(ctx, haveLimit)
			bitmap, tag, err := st.src.have(actx, p.CID, len(p.leaves), tags[k])
			cancel()
			if err == nil {
				pause, tags[k] = pollPause, tag
				f.post(ctx, func() error { f.queue.swarm.update(st, k, bitmap, time.Now()); return nil })
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

// toAsk lists the artifacts of the next question: mostly the one with the most bytes missing.
func (f *fetch) toAsk(round int) []int {
	var all []int
	most, bytes := -1, int64(-1)
	for k, p := range f.downloads {
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

// crowd is the shortest pause between two questions to one peer, when there are many.
func (f *fetch) crowd() time.Duration { return time.Duration(f.peers.Load()) * pollEach }

// update stores a bitfield of a peer; a nil bitmap means that nothing changed.
func (d *swarm) update(st *sourceState, k int, bitmap []byte, now time.Time) {
	m := st.swarmPeer
	if m == nil {
		m = &swarmPeer{source: st, id: nameHash(idOf(st.src)), have: make([]bitfield, len(d.downloads)), progress: now}
		st.swarmPeer, st.lacks = m, make([]bitfield, len(d.downloads))
		d.peers = append(d.peers, m)
		d.hasPeers = true
	}
	m.answered = now
	if bitmap == nil {
		return
	}
	have := bitfieldOf(len(d.downloads[k].leaves), bitmap)
	if m.have[k] != nil && !have.contains(m.have[k]) {
		m.penalize(maxPenalties, now)
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
	if m.reliable(now) {
		d.available[k].join(have)
	}
}

// trusted reports whether a peer is neither banned nor in backoff.
func (m *swarmPeer) trusted(now time.Time) bool {
	return !m.source.src.isBanned() && !now.Before(m.backoffUntil)
}

// reliable reports whether the leaves of a peer are not requested from origins.
func (m *swarmPeer) reliable(now time.Time) bool { return m.trusted(now) && !m.snubbed }

// progressing reports whether the bitfields of a peer grew lately, by its own last answer: a
// busy machine answers late and is not idle.
func (m *swarmPeer) progressing(limit time.Duration, now time.Time) bool {
	return m.answered.Sub(m.progress) < limit && now.Sub(m.answered) < max(silentPeer, limit)
}

// penalize adds n penalties; at maxPenalties the peer goes into backoff, which doubles each time.
func (m *swarmPeer) penalize(n int, now time.Time) {
	m.snubbed = true
	if m.penalties += n; m.penalties < maxPenalties {
		return
	}
	m.penalties = maxPenalties - 1
	m.backoffUntil = now.Add(backoffFirst << min(m.backoffs, maxBackoffs))
	m.backoffs++
}

// refresh drops stalled requests, and assigns the leaves again when the active set changed.
func (d *swarm) refresh(q *queue, now time.Time) {
	if d == nil {
		return
	}
	limit := max(idlePeer, slowOrigin*d.latency, d.dropStalled(q, now))
	if len(q.jobs) == 0 && now.Sub(q.last) > limit {
		d.releaseStalledShares()
	}
	for _, held := range d.available {
		clear(held)
	}
	active := []uint64{d.self}
	d.hasPeers = false
	for _, m := range d.peers {
		if !m.trusted(now) {
			continue
		}
		d.hasPeers = true
		for k, have := range m.have {
			if m.reliable(now) {
				d.available[k].join(have)
			}
		}
		if m.reliable(now) && m.progressing(limit, now) && !d.complete(m) {
			active = append(active, m.id)
		}
	}
	for _, st := range q.sources {
		if st.src.isPeer() && !st.joined && now.Sub(st.since) < joinGrace {
			d.hasPeers = true
			active = append(active, nameHash(idOf(st.src)))
		}
	}
	slices.Sort(active)
	if !slices.Equal(active, d.active) {
		d.assign(active)
	}
}

// releaseStalledShares takes leaves away from the peers that own them, when no block has
// arrived from any source for a while.
func (d *swarm) releaseStalledShares() {
	for k, p := range d.downloads {
		for i, l := range p.leaves {
			if !p.waiting.has(i) || d.owned[k].has(i) || d.available[k].has(i) {
				continue
			}
			leaf := leafHash(l.CID)
			for _, m := range d.peers {
				m.snubbed = m.snubbed || slices.Contains(d.active, m.id) && owns(m.id, d.active, leaf)
			}
		}
	}
}

// leafHash is the hash of a leaf, from which its owner is computed.
func leafHash(c cid.Cid) uint64 {
	name := c.KeyString()
	return binary.BigEndian.Uint64([]byte(name[len(name)-8:]))
}

// complete reports whether the bitfields of a peer are full; it requests nothing.
func (d *swarm) complete(m *swarmPeer) bool {
	all := 0
	for _, p := range d.downloads {
		all += len(p.leaves)
	}
	return m.count == all
}

// dropStalled drops the requests to peers that send nothing, and returns how long an origin
// lets this machine wait: a peer that waits as long is not idle.
func (d *swarm) dropStalled(q *queue, now time.Time) (waiting time.Duration) {
	for _, j := range q.jobs {
		quiet := now.Sub(j.heard)
		switch m := j.source.swarmPeer; {
		case m == nil && j.source.proven:
			waiting = max(waiting, 2*quiet)
		case m == nil:
		case quiet > stallLimit && !j.dropped && q.hasAlternative(j.source, now):
			j.source.src.note(fmt.Errorf("no block for %s: %w", quiet.Round(time.Millisecond), cas.ErrUnreachable))
			m.penalize(maxPenalties, now)
			j.drop()
		case quiet > firstBlockLimit && !j.source.proven:
			m.snubbed = true
		}
	}
	return waiting
}

// assign computes which leaves this machine owns in an active set.
func (d *swarm) assign(active []uint64) {
	d.active = active
	for k, p := range d.downloads {
		d.owned[k] = newBitfield(len(p.leaves))
		for i, l := range p.leaves {
			if owns(d.self, active, leafHash(l.CID)) {
				d.owned[k].add(i)
			}
		}
	}
}

// owns reports whether a peer has the highest weight of the active set for a leaf.
func owns(id uint64, active []uint64, leaf uint64) bool {
	at := mix64(id ^ leaf)
	return !slices.ContainsFunc(active, func(other uint64) bool { return mix64(other^leaf) > at })
}

// mix64 is the finalizer of splitmix64 (Steele, Lea and Flood, 2014).
func mix64(x uint64) uint64 {
	x ^= x >> 30
	x *= 0xbf58476d1ce4e5b9
	x ^= x >> 27
	x *= 0x94d049bb133111eb
	return x ^ x>>31
}

// restrict removes the leaves that are not to be requested from a source: from a peer those
// that it lacks, from an origin those that a peer has and those that another peer owns.
func (d *swarm) restrict(st *sourceState, k int, some bitfield, now time.Time) {
	m := st.swarmPeer
	switch {
	case m != nil && (!m.trusted(now) || m.have[k] == nil):
		clear(some)
	case m != nil:
		for w := range some {
			some[w] &= m.have[k][w]
		}
	case d.shares(st):
		for w := range some {
			some[w] &= d.owned[k][w] &^ d.available[k][w]
		}
	}
}

// shares reports whether only owned leaves are requested from an origin.
func (d *swarm) shares(st *sourceState) bool {
	return d != nil && st.swarmPeer == nil && d.hasPeers
}

// finished updates penalties and the latency of origins when a request is over.
func (d *swarm) finished(j *job, err error, now time.Time) {
	m := j.source.swarmPeer
	switch {
	case err == nil && m != nil:
		m.penalties, m.snubbed = 0, false
	case err == nil && len(j.leaves) == 1:
		d.latency = (3*d.latency + now.Sub(j.began)) / 4
	case m != nil && errors.Is(err, fs.ErrNotExist):
		m.penalize(1, now)
	case m != nil && !j.dropped && errors.Is(err, cas.ErrUnreachable) && !isBusy(err):
		m.penalize(1, now)
	}
}
