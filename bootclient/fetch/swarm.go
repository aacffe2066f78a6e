package fetch

import (
	"cmp"
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

	"github.com/phaseboot/phaseboot/bootclient/peers"
	"github.com/phaseboot/phaseboot/bootclient/timing"
	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/internal/gateway"
)

const (
	pollAll = 4 // every n-th request is for all artifacts

	maxPenalties = 2
	slowOrigin   = 4 // times what an origin takes for a leaf, before a peer counts as idle
	maxBackoffs  = 3 // doublings of the backoff, which ends well within the patience of a fetch
)

// A swarm is the set of peers that fetch, or have, the same release. Each peer reports
// its availability as one bitfield for each artifact (gateway.Client.Have). There is no
// coordinator: leaves are assigned by rendezvous hashing (highest random weight; Thaler and
// Ravishankar, 1998).
//
// A leaf that a peer has is requested from peers. A leaf that no peer has is requested from
// an origin, which is a source without a bitfield. Its owner requests it: the active peer
// with the highest hash of (peer ID, leaf CID). All peers compute the same owner, so an
// origin sends each leaf about once. A peer without progress for timing.IdlePeer leaves the active
// set, and the leaf's next owner takes over. A snubbed peer, which did not send the first
// block requested from it, owns nothing. When no block arrives from any source, the owners of
// the remaining leaves count as snubbed too.
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
func newSwarm(set *peers.Set, downloads []*download) *swarm {
	if set.Node == nil {
		return nil
	}
	sw := &swarm{self: nameHash(string(set.Node.ID())), downloads: downloads, owned: make([]bitfield, len(downloads)), available: make([]bitfield, len(downloads))}
	for k, dl := range downloads {
		sw.available[k] = newBitfield(len(dl.leaves))
	}
	sw.assign([]uint64{sw.self})
	return sw
}

// idOf is the binary peer ID of a source, from which swarm.self is computed too.
func idOf(s *peers.Source) string {
	id, err := peer.Decode(s.Key)
	if err != nil {
		return s.Key
	}
	return string(id)
}

func nameHash(id string) uint64 {
	sum := sha256.Sum256([]byte(id))
	return binary.BigEndian.Uint64(sum[:])
}

// pollBitfields requests a source's bitfields until it is banned or ctx ends. A source without
// bitfields stays an origin.
func (f *fetcher) pollBitfields(ctx context.Context, st *sourceState) {
	f.polled.Add(1)
	tags := make([]string, len(f.downloads))
	for round := 0; !st.src.IsBanned(); round++ {
		pause := timing.OriginPause
		for _, dl := range f.toPoll(round) {
			k := dl.index
			actx, cancel := context.WithTimeout(ctx, timing.HaveLimit)
			bitmap, tag, err := st.src.Have(actx, dl.CID, len(dl.leaves), tags[k])
			cancel()
			if err == nil {
				pause, tags[k] = timing.PollPause, tag
				f.post(ctx, func() error { f.queue.swarm.update(st, k, bitmap, time.Now()); return nil })
			} else if !errors.Is(err, fs.ErrNotExist) {
				break
			}
		}
		f.post(ctx, func() error { st.ready = true; return nil })
		select {
		case <-time.After(max(pause, f.minPause())):
		case <-st.src.Banned():
		case <-ctx.Done():
			return
		}
	}
}

// toPoll lists the artifacts of the next request: mostly the one with the most missing bytes.
func (f *fetcher) toPoll(round int) []*download {
	all := slices.DeleteFunc(slices.Clone(f.downloads), func(dl *download) bool { return dl.bytesLeft.Load() == 0 })
	if round%pollAll == 0 || len(all) == 0 {
		return all
	}
	return []*download{slices.MaxFunc(all, func(a, b *download) int { return cmp.Compare(a.bytesLeft.Load(), b.bytesLeft.Load()) })}
}

// minPause is the shortest pause between two requests to one peer, when there are many.
func (f *fetcher) minPause() time.Duration { return time.Duration(f.polled.Load()) * timing.PollEach }

// update stores a bitfield of a peer; a nil bitmap means that nothing changed.
func (sw *swarm) update(st *sourceState, k int, bitmap []byte, now time.Time) {
	sp := st.swarmPeer
	if sp == nil {
		sp = &swarmPeer{source: st, id: nameHash(idOf(st.src)), have: make([]bitfield, len(sw.downloads)), progress: now}
		st.swarmPeer, st.lacks = sp, make([]bitfield, len(sw.downloads))
		sw.peers = append(sw.peers, sp)
		sw.hasPeers = true
	}
	sp.answered = now
	if bitmap == nil {
		return
	}
	have := bitfieldOf(len(sw.downloads[k].leaves), bitmap)
	if sp.have[k] != nil && !have.contains(sp.have[k]) {
		sp.penalize(maxPenalties, now)
	}
	sp.have[k] = have
	count := 0
	for _, s := range sp.have {
		count += s.count()
	}
	if count > sp.count {
		sp.progress = now
	}
	sp.count = count
	if sp.reliable(now) {
		sw.available[k].join(have)
	}
}

// trusted reports whether a peer is neither banned nor in backoff.
func (sp *swarmPeer) trusted(now time.Time) bool {
	return !sp.source.src.IsBanned() && !now.Before(sp.backoffUntil)
}

// reliable reports whether the leaves of a peer are not requested from origins.
func (sp *swarmPeer) reliable(now time.Time) bool { return sp.trusted(now) && !sp.snubbed }

// progressing reports whether the bitfields of a peer grew lately, measured at its last answer:
// a busy machine answers late and is not idle.
func (sp *swarmPeer) progressing(limit time.Duration, now time.Time) bool {
	return sp.answered.Sub(sp.progress) < limit && now.Sub(sp.answered) < max(timing.SilentPeer, limit)
}

// penalize adds n penalties; at maxPenalties the peer goes into backoff, which doubles each time.
func (sp *swarmPeer) penalize(n int, now time.Time) {
	sp.snubbed = true
	if sp.penalties += n; sp.penalties < maxPenalties {
		return
	}
	sp.penalties = maxPenalties - 1
	sp.backoffUntil = now.Add(timing.BackoffFirst << min(sp.backoffs, maxBackoffs))
	sp.backoffs++
}

// refresh drops stalled requests, and assigns the leaves again when the active set changed.
func (sw *swarm) refresh(q *queue, now time.Time) {
	if sw == nil {
		return
	}
	limit := max(timing.IdlePeer, slowOrigin*sw.latency, sw.dropStalled(q, now))
	if len(q.jobs) == 0 && now.Sub(q.lastLeaf) > limit {
		sw.releaseStalledShares()
	}
	for _, held := range sw.available {
		clear(held)
	}
	active := []uint64{sw.self}
	sw.hasPeers = false
	for _, sp := range sw.peers {
		if !sp.trusted(now) {
			continue
		}
		sw.hasPeers = true
		for k, have := range sp.have {
			if sp.reliable(now) {
				sw.available[k].join(have)
			}
		}
		if sp.reliable(now) && sp.progressing(limit, now) && !sw.complete(sp) {
			active = append(active, sp.id)
		}
	}
	for _, st := range q.sources {
		if st.src.IsPeer() && !st.ready && now.Sub(st.added) < timing.JoinGrace {
			sw.hasPeers = true
			active = append(active, nameHash(idOf(st.src)))
		}
	}
	slices.Sort(active)
	if !slices.Equal(active, sw.active) {
		sw.assign(active)
	}
}

// releaseStalledShares takes leaves away from the peers that own them, when no block has
// arrived from any source for a while.
func (sw *swarm) releaseStalledShares() {
	for k, dl := range sw.downloads {
		for i, l := range dl.leaves {
			if !dl.waiting.has(i) || sw.owned[k].has(i) || sw.available[k].has(i) {
				continue
			}
			leaf := leafHash(l.CID)
			for _, sp := range sw.peers {
				sp.snubbed = sp.snubbed || slices.Contains(sw.active, sp.id) && owns(sp.id, sw.active, leaf)
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
func (sw *swarm) complete(sp *swarmPeer) bool {
	all := 0
	for _, dl := range sw.downloads {
		all += len(dl.leaves)
	}
	return sp.count == all
}

// dropStalled drops the requests to peers that send nothing. It returns for how long an origin
// keeps this machine waiting: a peer that waits as long is not idle.
func (sw *swarm) dropStalled(q *queue, now time.Time) (waiting time.Duration) {
	for _, j := range q.jobs {
		quiet := now.Sub(j.lastLeaf)
		switch sp := j.source.swarmPeer; {
		case sp == nil && j.source.proven:
			waiting = max(waiting, 2*quiet)
		case sp == nil:
		case quiet > timing.StallLimit && !j.dropped && q.hasAlternative(j.source, now):
			j.source.src.NoteError(fmt.Errorf("no block for %s: %w", quiet.Round(time.Millisecond), cas.ErrUnreachable))
			sp.penalize(maxPenalties, now)
			j.drop()
		case quiet > timing.FirstBlockLimit && !j.source.proven:
			sp.snubbed = true
		}
	}
	return waiting
}

// assign computes which leaves this machine owns in an active set.
func (sw *swarm) assign(active []uint64) {
	sw.active = active
	for k, dl := range sw.downloads {
		sw.owned[k] = newBitfield(len(dl.leaves))
		for i, l := range dl.leaves {
			if owns(sw.self, active, leafHash(l.CID)) {
				sw.owned[k].add(i)
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
func (sw *swarm) restrict(st *sourceState, k int, some bitfield, now time.Time) {
	sp := st.swarmPeer
	switch {
	case sp != nil && (!sp.trusted(now) || sp.have[k] == nil):
		clear(some)
	case sp != nil:
		for w := range some {
			some[w] &= sp.have[k][w]
		}
	case sw.shares(st):
		for w := range some {
			some[w] &= sw.owned[k][w] &^ sw.available[k][w]
		}
	}
}

// shares reports whether only owned leaves are requested from an origin.
func (sw *swarm) shares(st *sourceState) bool {
	return sw != nil && st.swarmPeer == nil && sw.hasPeers
}

// jobDone updates penalties and the latency of origins when a request is over.
func (sw *swarm) jobDone(j *job, err error, now time.Time) {
	sp := j.source.swarmPeer
	switch {
	case err == nil && sp != nil:
		sp.penalties, sp.snubbed = 0, false
	case err == nil && len(j.leaves) == 1:
		sw.latency = (3*sw.latency + now.Sub(j.began)) / 4
	case sp != nil && errors.Is(err, fs.ErrNotExist):
		sp.penalize(1, now)
	case sp != nil && !j.dropped && errors.Is(err, cas.ErrUnreachable) && !errors.As(err, new(*gateway.BusyError)):
		sp.penalize(1, now)
	}
}
