package publisher

import (
	"bytes"
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/internal/gateway"
	"github.com/phaseboot/phaseboot/internal/p2p"
	"github.com/phaseboot/phaseboot/publisher/pubtest"
)

// dhtNode runs another server of the repository's DHT and returns its address.
func (w *world) dhtNode() []peer.AddrInfo {
	w.T.Helper()
	node, err := p2p.New(w.T.Context(), p2p.Options{Listen: w.serveOptions().Listen, DHT: p2p.DHTServer, Prefix: "/phaseboot/" + w.Name()})
	pubtest.Check(w.T, err)
	w.T.Cleanup(func() { node.Close() })
	enter, err := p2p.ParsePeers(node.Endpoints(nil).Listen)
	pubtest.Check(w.T, err)
	return enter
}

// The DHT has records of the old release for machines that still fetch it, and of the new one.
func TestOldPointersStayAnnounced(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	first := w.Add(w.Sign(1, "v1", w.Release))
	enter := w.dhtNode()
	opts := w.serveOptions()
	opts.Bootstrap = enter
	opts.Metrics = "127.0.0.1:0"
	r, _ := w.serve(opts)
	old := w.artifact(r.Pointer, &gateway.Client{Base: r.HTTP[0]}, "kernel")
	w.Write("artifacts/kernel", bytes.Repeat([]byte("new kernel "), 10_000))
	second := w.Add(w.Sign(2, "v2", w.Release))
	machine, err := p2p.New(t.Context(), p2p.Options{DHT: p2p.DHTClient, Prefix: "/phaseboot/" + w.Name(), Bootstrap: enter})
	pubtest.Check(t, err)
	defer machine.Close()
	want := []string{first.Pointer, second.Pointer, old.CID.String()}
	for _, name := range want {
		c := cid.MustParse(name)
		eventually(t, "a provider of "+name, func() bool {
			ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
			defer cancel()
			for p := range machine.FindProviders(ctx, c) {
				if p.ID.String() == r.Peer {
					return true
				}
			}
			return false
		})
	}
	eventually(t, "all announced", func() bool {
		_, metrics := get(t, r.Metrics[0]+"/metrics")
		return strings.Contains(metrics, "phasepublish_announced_cids 7\n") && !strings.Contains(metrics, "phasepublish_announced_age_seconds -1\n")
	})
}

func TestASweepAnnouncesEverythingInTurn(t *testing.T) {
	now := time.Now()
	a := &announcer{server: &server{}, last: map[cid.Cid]time.Time{cid.Undef: now}}
	var cids []cid.Cid
	for i := range 5 {
		c := cas.Sum(cid.Raw, []byte{byte(i)})
		cids = append(cids, c)
		a.last[c] = now.Add(time.Duration(i) * time.Second)
	}
	var got []cid.Cid
	for i := range 12 { // two rounds, the record in each
		c := a.next()
		a.last[c] = now.Add(time.Duration(10+i) * time.Second)
		got = append(got, c)
	}
	slices.SortFunc(cids, func(a, b cid.Cid) int { return strings.Compare(a.KeyString(), b.KeyString()) })
	for _, round := range [][]cid.Cid{got[:6], got[6:]} {
		announced := slices.Clone(round)
		slices.SortFunc(announced, func(a, b cid.Cid) int { return strings.Compare(a.KeyString(), b.KeyString()) })
		if !slices.Equal(announced, append([]cid.Cid{cid.Undef}, cids...)) {
			t.Errorf("a round announced %v", round)
		}
	}
}
