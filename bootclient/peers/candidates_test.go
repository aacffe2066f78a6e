package peers

import (
	"context"
	"crypto/rand"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/phaseboot/phaseboot/bootclient/timing"
	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/internal/bootargs"
	"github.com/phaseboot/phaseboot/internal/p2p"
)

func invented(t *testing.T) peer.ID {
	t.Helper()
	_, pub, err := crypto.GenerateEd25519Key(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	id, err := peer.IDFromPublicKey(pub)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func hintOf(t *testing.T, addr string) peer.AddrInfo {
	t.Helper()
	info, err := bootargs.ParsePeer(addr)
	if err != nil {
		t.Fatal(err)
	}
	return info
}

// nodes starts two nodes on loopback: one that dials, and one that serves.
func nodes(t *testing.T) (dials, serves *p2p.Node, addr string) {
	t.Helper()
	any, err := p2p.ParseAddrs([]string{"/ip4/127.0.0.1/tcp/0"})
	if err != nil {
		t.Fatal(err)
	}
	for _, at := range []struct {
		node **p2p.Node
		opts p2p.Options
	}{{&dials, p2p.Options{}}, {&serves, p2p.Options{Listen: any}}} {
		n, err := p2p.New(t.Context(), at.opts)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { n.Close() })
		*at.node = n
	}
	if err := serves.Serve(http.NotFoundHandler()); err != nil {
		t.Fatal(err)
	}
	for _, a := range serves.Addrs() {
		if strings.HasPrefix(a.String(), "/ip4/127.0.0.1/") {
			return dials, serves, a.String()
		}
	}
	t.Fatalf("no loopback address in %v", serves.Addrs())
	return nil, nil, ""
}

func TestTenThousandInventedPeersDoNotKeepARealOneOut(t *testing.T) {
	dials, serves, addr := nodes(t)
	set := newSet(http.DefaultClient, nil, &timing.Usual)
	set.Node = dials
	for i := range 10_000 {
		set.addPeer(KindMDNS, hintOf(t, fmt.Sprintf("/ip4/127.0.0.%d/tcp/1/p2p/%s", 2+i%250, invented(t))))
	}
	set.addPeer(KindMDNS, hintOf(t, addr))
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	done := make(chan struct{})
	go func() {
		set.dialAll(ctx)
		close(done)
	}()
	for {
		known, more := set.Known()
		if len(known) > 0 {
			if known[0].Key != serves.ID().String() || len(known) > 1 {
				t.Errorf("the sources are %v", known)
			}
			break
		}
		select {
		case <-more:
		case <-ctx.Done():
			t.Fatal("the real peer was not reached")
		}
	}
	cancel()
	<-done
}

func TestTheNumberOfCandidatesIsBounded(t *testing.T) {
	set := newSet(http.DefaultClient, nil, &timing.Usual)
	set.Node, _, _ = nodes(t)
	id := invented(t)
	for i := range maxCandidates + 5000 {
		set.addPeer(kindDHT, peer.AddrInfo{ID: peer.ID(fmt.Sprint(id, i))})
	}
	if len(set.candidates.waiting) != maxCandidates || len(set.addrs) != maxCandidates {
		t.Errorf("%d wait, %d addresses are kept, want %d", len(set.candidates.waiting), len(set.addrs), maxCandidates)
	}
}

func TestACandidateWithAFailedDialIsDialledLast(t *testing.T) {
	s := newCandidates()
	now := time.Now()
	silent := hintOf(t, "/ip4/192.0.2.1/tcp/1/p2p/"+invented(t).String())
	s.add(KindMDNS, silent)
	first, _ := s.next(now)
	s.done(first, cas.ErrUnreachable, now)
	other := hintOf(t, "/ip4/192.0.2.2/tcp/1/p2p/"+invented(t).String())
	s.add(KindMDNS, hintOf(t, "/ip4/192.0.2.1/tcp/2/p2p/"+invented(t).String()))
	s.add(KindMDNS, other)
	now = now.Add(time.Minute)
	if c, _ := s.next(now); c.id != other.ID {
		t.Error("an address with a failed dial is dialled before a new one")
	}
	s.next(now)
	if c, _ := s.next(now); c.id != silent.ID {
		t.Errorf("the third is %v", c)
	}
}

// A candidate without a free place answers at once. It must not be dialled again without a pause.
func TestACandidateWithoutAFreePlaceIsNotDialledAgainAtOnce(t *testing.T) {
	s := newCandidates()
	now := time.Now()
	for i := range maxPerIP + 1 {
		s.add(KindMDNS, hintOf(t, fmt.Sprintf("/ip4/192.0.2.1/tcp/%d/p2p/%s", i+1, invented(t))))
		c, _ := s.next(now)
		if c == nil {
			t.Fatal("no candidate is dialled")
		}
		if placed := s.done(c, nil, now); placed != (i < maxPerIP) {
			t.Fatalf("number %d of one address: placed %t", i+1, placed)
		}
	}
	if c, wait := s.next(now); c != nil || wait < timing.CandidatePause/2 {
		t.Errorf("%v is dialled after %s", c, wait)
	}
}
