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

// framed is a message as it goes over a stream.
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

// A liar answers every stream of wants with the same bytes.
func liar(t *testing.T, h host.Host, answer []byte) {
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

func TestWhoSendsWhatWasNotAskedForIsCorrupt(t *testing.T) {
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
			liar(t, a, answer)
			p := NewClient(b).Peer(a.ID(), connected)
			for range 2 { // it stays so
				if _, err := p.Block(t.Context(), wanted); !errors.Is(err, cas.ErrCorrupt) {
					t.Errorf("%v", err)
				}
			}
		})
	}
}

// A connection may break off anywhere in a message, and the peer is not to blame for that.
func TestAStreamThatBreaksOffIsNoLie(t *testing.T) {
	c := cas.Sum(cid.Raw, []byte("x"))
	whole := framed(appendPresence(appendBlock(nil, c, []byte("x")), c, false))
	all := parts{block: func(_, _ []byte) error { return nil }, dontHave: func(cid.Cid) {}}
	for n := 1; n < len(whole); n++ {
		r := bufio.NewReader(io.MultiReader(bytes.NewReader(whole[:n]), iotest.ErrReader(network.ErrReset)))
		if err := readMessage(r, all); !errors.Is(err, network.ErrReset) || errors.Is(err, errMessage) {
			t.Errorf("after %d of %d bytes: %v", n, len(whole), err)
		}
	}
}

func TestAPeerThatSaysNothingIsGivenUp(t *testing.T) {
	t.Parallel()
	a, b := pair(t)
	liar(t, a, nil)
	p := NewClient(b).Peer(a.ID(), connected)
	start := time.Now()
	if _, err := p.Block(t.Context(), cas.Sum(cid.Raw, []byte("x"))); !errors.Is(err, cas.ErrUnreachable) {
		t.Errorf("%v", err)
	}
	if d := time.Since(start); d < quiet {
		t.Errorf("after %v already", d)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := p.Block(ctx, cas.Sum(cid.Raw, []byte("x"))); !errors.Is(err, cas.ErrUnreachable) {
		t.Errorf("%v", err)
	}
}

func TestAConnectionThatEndsEndsTheWait(t *testing.T) {
	t.Parallel()
	a, b := pair(t)
	a.SetStreamHandler(Protocol, func(s network.Stream) { a.Network().ClosePeer(b.ID()) })
	p := NewClient(b).Peer(a.ID(), connected)
	if _, err := p.Block(t.Context(), cas.Sum(cid.Raw, []byte("x"))); !errors.Is(err, cas.ErrUnreachable) {
		t.Errorf("%v", err)
	}
}

// A flood asks for everything, in wants that are cut off, cancelled, repeated and never
// read; somebody else is served beside it.
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
	bad.SetStreamHandler(Protocol, func(network.Stream) { <-t.Context().Done() }) // takes nothing
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
	if a := s.askers[bad.ID()]; a != nil && (a.queue.Len() > maxWants || len(a.at) != a.queue.Len()) {
		t.Errorf("%d wants are kept, %d by name", a.queue.Len(), len(a.at))
	}
}

func wantOf(c cid.Cid) want { return want{name: c, dontHave: true} }

func TestAWantThatIsCancelledIsNotAnswered(t *testing.T) {
	s := &Server{Options: Options{}, askers: map[peer.ID]*asker{"p": newAsker("here")}, same: map[string]int{"here": 1}}
	one, two := cas.Sum(cid.Raw, []byte("1")), cas.Sum(cid.Raw, []byte("2"))
	s.take("p", "here", want{name: one})
	s.take("p", "here", want{name: two, have: true})
	s.take("p", "here", want{name: two})
	s.take("p", "here", want{name: one, cancel: true})
	a := s.askers["p"]
	if w, ok := s.next("p", a, false); !ok || w.name != two || w.have {
		t.Errorf("next is %+v, %t", w, ok)
	}
	if _, ok := s.next("p", a, false); ok || len(s.askers)+len(s.same) != 0 || len(a.at) != 0 {
		t.Errorf("%d askers, %d wants are left", len(s.askers), len(a.at))
	}
}

// A block that nobody may have yet keeps its askers in place.
func TestWhoInventsPeersIsNotAllThatIsAnswered(t *testing.T) {
	stuck := make(chan struct{})
	s := Serve(newHost(t), Options{Store: memory(t, content(t, 1)), Before: func(context.Context, string, int) error { <-stuck; return nil }})
	defer s.Close()
	defer close(stuck)
	var w want
	for c := range content(t, 1) {
		w = wantOf(c)
	}
	for i := range 2 * maxPeers {
		s.take(peer.ID(fmt.Sprintf("invented %d", i)), "192.0.2.1", w)
	}
	s.take("honest", "192.0.2.2", w)
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.askers) != maxSame+1 || s.askers["honest"] == nil {
		t.Errorf("%d are answered, the honest one is %v", len(s.askers), s.askers["honest"])
	}
}

func FuzzMessage(f *testing.F) {
	c := cas.Sum(cid.Raw, []byte("x"))
	f.Add(framed(appendPresence(appendBlock(appendWant(nil, want{name: c, have: true}), c, []byte("x")), c, false)))
	f.Add([]byte{0xff, 0xff, 0xff, 0x01, 0x0a})
	f.Fuzz(func(t *testing.T, data []byte) {
		r := bufio.NewReader(bytes.NewReader(data))
		err := readMessage(r, parts{
			want: func(w want) { check(t, cas.CheckCID(w.name)) },
			block: func(prefix, data []byte) error {
				if len(prefix) > maxName || len(data) > cas.MaxBlock {
					t.Errorf("%d, %d bytes", len(prefix), len(data))
				}
				return nil
			},
			dontHave: func(c cid.Cid) { check(t, cas.CheckCID(c)) },
		})
		if err == nil || errors.Is(err, errMessage) || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || strings.Contains(err.Error(), "overflow") {
			return
		}
		t.Errorf("%v", err)
	})
}
