package bitswap

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/ipfs/boxo/bitswap/message"
	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/phaseboot/phaseboot/cas"
)

// framed returns a message with its length, as on a stream.
func framed(message []byte) []byte {
	return append(binary.AppendUvarint(nil, uint64(len(message))), message...)
}

func TestAStockNodeReadsWhatWeWrite(t *testing.T) {
	data := []byte("some bytes")
	c, other := cas.Sum(cid.Raw, data), cas.Sum(cid.DagProtobuf, data)
	var b []byte
	b = appendWant(b, want{name: c, have: true, dontHave: true})
	b = appendWant(b, want{name: other, cancel: true})
	b = appendBlock(b, c, data)
	third := cas.Sum(cid.Raw, []byte("third"))
	b = appendPresence(b, third, true)
	b = appendPresence(b, other, false)
	m, _, err := message.FromNet(bytes.NewReader(framed(b)))
	check(t, err)
	if got := m.Blocks(); len(got) != 1 || !got[0].Cid().Equals(c) || !bytes.Equal(got[0].RawData(), data) {
		t.Errorf("blocks %v", got)
	}
	if haves, lacks := m.Haves(), m.DontHaves(); len(haves) != 1 || haves[0] != third || len(lacks) != 1 || lacks[0] != other {
		t.Errorf("haves %v, lacks %v", haves, lacks)
	}
	for _, e := range m.Wantlist() {
		if e.Cancel != (e.Cid == other) || e.SendDontHave != (e.Cid == c) {
			t.Errorf("wants %+v", e)
		}
	}
}

// A hostile peer answers every stream of wants with the same bytes.
func hostile(t *testing.T, h host.Host, answer []byte) {
	t.Helper()
	h.SetStreamHandler(Protocol, func(s network.Stream) {
		defer s.Close()
		if _, err := s.Read(make([]byte, 1)); err != nil {
			return
		}
		out, err := h.NewStream(context.Background(), s.Conn().RemotePeer(), Protocol)
		if err != nil {
			return
		}
		out.Write(answer)
		out.Close()
	})
}

func TestAPeerThatSendsAnUnrequestedBlockIsBanned(t *testing.T) {
	wanted := cas.Sum(cid.Raw, []byte("wanted"))
	for name, answer := range map[string][]byte{
		"wrong bytes":          framed(appendBlock(nil, wanted, []byte("wantee"))),
		"an identity hash":     framed(appendBytes(nil, fieldPayload, appendBytes(appendBytes(nil, fieldPrefix, []byte{1, 0x55, 0, 6}), fieldData, []byte("wanted")))),
		"a truncated digest":   framed(appendBytes(nil, fieldPayload, appendBytes(appendBytes(nil, fieldPrefix, []byte{1, 0x55, 0x12, 20}), fieldData, []byte("wanted")))),
		"no prefix":            framed(appendBytes(nil, fieldPayload, appendBytes(nil, fieldData, []byte("wanted")))),
		"a block of 1 MiB + 1": framed(appendBlock(nil, wanted, make([]byte, cas.MaxBlock+1))),
		"a message of 8 MiB":   binary.AppendUvarint(nil, 8<<20),
		"a wire type of 3":     framed([]byte{0x0b}),
		"a part too long":      framed([]byte{0x1a, 0xff, 0xff, 0x03}),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a, b := pair(t)
			hostile(t, a, answer)
			p := NewClient(b).Peer(a.ID(), connected)
			for range 2 { // the ban lasts
				if _, err := p.Block(t.Context(), wanted); !errors.Is(err, cas.ErrCorrupt) {
					t.Errorf("%v", err)
				}
			}
		})
	}
}

// A connection can break anywhere in a message, which is not a fault of the peer.
func TestABrokenStreamBansNoPeer(t *testing.T) {
	c := cas.Sum(cid.Raw, []byte("x"))
	whole := framed(appendPresence(appendBlock(nil, c, []byte("x")), c, false))
	all := handlers{block: func(_, _ []byte) error { return nil }, dontHave: func(cid.Cid) {}}
	for n := 1; n < len(whole); n++ {
		r := bufio.NewReader(io.MultiReader(bytes.NewReader(whole[:n]), iotest.ErrReader(network.ErrReset)))
		if err := readMessage(r, all); !errors.Is(err, network.ErrReset) || errors.Is(err, errMalformed) {
			t.Errorf("after %d of %d bytes: %v", n, len(whole), err)
		}
	}
}

func TestASilentPeerTimesOut(t *testing.T) {
	t.Parallel()
	a, b := pair(t)
	hostile(t, a, nil)
	p := NewClient(b).Peer(a.ID(), connected)
	start := time.Now()
	if _, err := p.Block(t.Context(), cas.Sum(cid.Raw, []byte("x"))); !errors.Is(err, cas.ErrUnreachable) {
		t.Errorf("%v", err)
	}
	if d := time.Since(start); d < stallTimeout {
		t.Errorf("after %v already", d)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := p.Block(ctx, cas.Sum(cid.Raw, []byte("x"))); !errors.Is(err, cas.ErrUnreachable) {
		t.Errorf("%v", err)
	}
}

func TestALostConnectionEndsTheWait(t *testing.T) {
	t.Parallel()
	a, b := pair(t)
	a.SetStreamHandler(Protocol, func(s network.Stream) { a.Network().ClosePeer(b.ID()) })
	p := NewClient(b).Peer(a.ID(), connected)
	if _, err := p.Block(t.Context(), cas.Sum(cid.Raw, []byte("x"))); !errors.Is(err, cas.ErrUnreachable) {
		t.Errorf("%v", err)
	}
}

// One peer sends more wants than are queued and reads no answers; another peer is served.
func TestAFloodOfWantsIsBoundedAndOthersAreServed(t *testing.T) {
	want := content(t, 40)
	server := newHost(t)
	s := Serve(server, Options{Store: memory(t, want)})
	defer s.Close()
	connect := func() host.Host {
		h := newHost(t)
		check(t, h.Connect(t.Context(), peer.AddrInfo{ID: server.ID(), Addrs: server.Addrs()}))
		return h
	}
	bad := connect()
	bad.SetStreamHandler(Protocol, func(network.Stream) { <-t.Context().Done() }) // reads nothing
	out, err := bad.NewStream(t.Context(), server.ID(), Protocol)
	check(t, err)
	w := bufio.NewWriter(out)
	for i := range 3 * maxWants {
		data := binary.AppendUvarint(nil, uint64(i))
		w.Write(framed(appendWant(nil, wantOf(cas.Sum(cid.Raw, data)))))
	}
	for c := range want {
		w.Write(framed(appendWant(nil, wantOf(c))))
	}
	check(t, w.Flush())
	getAll(t, NewClient(connect()).Peer(server.ID(), connected), want)
	s.mu.Lock()
	defer s.mu.Unlock()
	if a := s.queues[bad.ID()]; a != nil && (a.wants.Len() > maxWants || len(a.byCID) != a.wants.Len()) {
		t.Errorf("%d wants are kept, %d by name", a.wants.Len(), len(a.byCID))
	}
}

func wantOf(c cid.Cid) want { return want{name: c, dontHave: true} }

func TestACancelledWantIsNotAnswered(t *testing.T) {
	s := &Server{Options: Options{}, queues: map[peer.ID]*wantQueue{"p": newWantQueue("here")}, perClient: map[string]int{"here": 1}}
	one, two := cas.Sum(cid.Raw, []byte("1")), cas.Sum(cid.Raw, []byte("2"))
	s.addWant("p", "here", want{name: one})
	s.addWant("p", "here", want{name: two, have: true})
	s.addWant("p", "here", want{name: two})
	s.addWant("p", "here", want{name: one, cancel: true})
	a := s.queues["p"]
	if w, ok := s.nextWant("p", a, false); !ok || w.name != two || w.have {
		t.Errorf("next is %+v, %t", w, ok)
	}
	if _, ok := s.nextWant("p", a, false); ok || len(s.queues)+len(s.perClient) != 0 || len(a.byCID) != 0 {
		t.Errorf("%d queues, %d wants are left", len(s.queues), len(a.byCID))
	}
}

// Throttle blocks, so that the queues of all peers stay.
func TestManyPeerIDsOfOneAddressLeaveRoomForOthers(t *testing.T) {
	stuck := make(chan struct{})
	s := Serve(newHost(t), Options{Store: memory(t, content(t, 1)), Throttle: func(context.Context, string, int) error { <-stuck; return nil }})
	defer s.Close()
	defer close(stuck)
	var w want
	for c := range content(t, 1) {
		w = wantOf(c)
	}
	for i := range 2 * maxPeers {
		s.addWant(peer.ID(fmt.Sprintf("invented %d", i)), "192.0.2.1", w)
	}
	s.addWant("honest", "192.0.2.2", w)
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.queues) != maxPerClient+1 || s.queues["honest"] == nil {
		t.Errorf("%d peers are answered, the honest one is %v", len(s.queues), s.queues["honest"])
	}
}

func FuzzMessage(f *testing.F) {
	c := cas.Sum(cid.Raw, []byte("x"))
	f.Add(framed(appendPresence(appendBlock(appendWant(nil, want{name: c, have: true}), c, []byte("x")), c, false)))
	f.Add([]byte{0xff, 0xff, 0xff, 0x01, 0x0a})
	f.Fuzz(func(t *testing.T, data []byte) {
		r := bufio.NewReader(bytes.NewReader(data))
		err := readMessage(r, handlers{
			want: func(w want) { check(t, cas.CheckCID(w.name)) },
			block: func(prefix, data []byte) error {
				if len(prefix) > maxCID || len(data) > cas.MaxBlock {
					t.Errorf("%d, %d bytes", len(prefix), len(data))
				}
				return nil
			},
			dontHave: func(c cid.Cid) { check(t, cas.CheckCID(c)) },
		})
		if err == nil || errors.Is(err, errMalformed) || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || strings.Contains(err.Error(), "overflow") {
			return
		}
		t.Errorf("%v", err)
	})
}
