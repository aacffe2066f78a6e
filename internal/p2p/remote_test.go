package p2p

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"

	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/multiformats/go-multiaddr"
	manet "github.com/multiformats/go-multiaddr/net"

	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/cas/castest"
	"github.com/phaseboot/phaseboot/internal/bitswap"
	"github.com/phaseboot/phaseboot/internal/gateway"
)

type remoteAt struct {
	network.ConnMultiaddrs
	at multiaddr.Multiaddr
}

func (r remoteAt) RemoteMultiaddr() multiaddr.Multiaddr { return r.at }

func TestAStreamHasTheAddressOfItsConnectionOrRelay(t *testing.T) {
	const id = "/p2p/12D3KooWRQYxvmt7VyfsDzi3oQfqT5Roqm7M7Uom9xwbmYb5Ktrj"
	for at, want := range map[string]string{
		"/ip4/192.0.2.7/tcp/4001":                                       "192.0.2.7:4001",
		"/ip4/192.0.2.7/udp/4001/quic-v1":                               "192.0.2.7:4001",
		"/ip6/2001:db8::1/tcp/4001":                                     "[2001:db8::1]:4001",
		"/ip6zone/eth0/ip6/fe80::1/tcp/4001":                            "[fe80::1]:4001",
		"/ip4/192.0.2.9/tcp/4001" + id + "/p2p-circuit":                 "192.0.2.9:4001",
		"/ip4/192.0.2.9/udp/40/quic-v1" + id + "/p2p-circuit/" + id[1:]: "192.0.2.9:40",
		"/ip4/192.0.2.9":                                                "192.0.2.9:0",
		"/dns4/example.org/tcp/4001":                                    noAddress,
		id + "/p2p-circuit":                                             noAddress,
	} {
		if got := remoteAddr(remoteAt{at: addrs(t, at)[0]}); got != want {
			t.Errorf("%s: got %s, want %s", at, got, want)
		}
	}
}

// via returns the address of a forwarder that dials to from ip.
func via(t *testing.T, ip, to string) multiaddr.Multiaddr {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	check(t, err)
	t.Cleanup(func() { l.Close() })
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(ip)}}
	go func() {
		for in, err := l.Accept(); err == nil; in, err = l.Accept() {
			if out, err := d.Dial("tcp", to); err == nil {
				go func() { io.Copy(out, in); out.Close() }()
				go func() { io.Copy(in, out); in.Close() }()
			}
		}
	}()
	return addrs(t, fmt.Sprintf("/ip4/127.0.0.1/tcp/%d", l.Addr().(*net.TCPAddr).Port))[0]
}

// A holding store delays the reads of one block until release is closed.
type holding struct {
	cas.Source
	block   cid.Cid
	release chan struct{}
}

func (h holding) Block(ctx context.Context, c cid.Cid) ([]byte, error) {
	if c == h.block {
		<-h.release
	}
	return h.Source.Block(ctx, c)
}

// Ten peers of one address request CARs and keep their slots; then a peer of another address asks.
func TestManyPeerIDsHaveTheUploadSlotsOfOneAddress(t *testing.T) {
	t.Parallel()
	store := cas.NewMemory()
	file, err := cas.AddFile(t.Context(), store.Put, bytes.NewReader(castest.Bytes(1, 100<<10)), "size-32768")
	check(t, err)
	leaves, err := cas.Leaves(t.Context(), store, file.CID, file.Size)
	check(t, err)
	held := holding{store, leaves[0].CID, make(chan struct{})}
	server := start(t, Options{Listen: addrs(t, "/ip4/127.0.0.1/tcp/0")})
	check(t, server.Serve(gateway.Handler(gateway.Options{Source: held, UploadSlots: 4})))
	_, at, err := manet.DialArgs(server.host.Network().ListenAddresses()[0])
	check(t, err)

	ask := func(from multiaddr.Multiaddr, c cid.Cid, format string) (int, error) {
		gw, err := start(t, Options{}).Gateway(t.Context(), peer.AddrInfo{ID: server.ID(), Addrs: []multiaddr.Multiaddr{from}})
		if err != nil {
			return 0, err
		}
		resp, err := gw.HTTP.Get(gw.Base + "/ipfs/" + c.String() + "?format=" + format)
		if err != nil {
			return 0, err
		}
		defer resp.Body.Close()
		_, err = io.Copy(io.Discard, resp.Body)
		return resp.StatusCode, err
	}
	crowd, honest := via(t, "127.0.0.1", at), via(t, "127.0.0.2", at)
	answers := make(chan int, 10)
	var all sync.WaitGroup
	for range cap(answers) {
		all.Go(func() {
			status, err := ask(crowd, file.CID, "car")
			if err != nil {
				t.Error(err)
			}
			answers <- status
		})
	}
	for i := range 8 { // two of the four slots are theirs; the others are refused
		if status := <-answers; status != http.StatusServiceUnavailable {
			t.Errorf("peer %d of the crowd got %d", i, status)
		}
	}
	if status, err := ask(honest, leaves[1].CID, "raw"); status != http.StatusOK || err != nil {
		t.Errorf("the peer of the other address got %d, %v", status, err)
	}
	close(held.release)
	all.Wait()
	for range 2 {
		if status := <-answers; status != http.StatusOK {
			t.Errorf("a peer with a slot got %d", status)
		}
	}
}

// Bitswap counts its clients as HTTP does.
func TestBitswapClientsAreCountedByAddress(t *testing.T) {
	t.Parallel()
	data := castest.Bytes(1, 1000)
	c := cas.Sum(cid.Raw, data)
	store := cas.NewMemory()
	check(t, store.Put(t.Context(), c, data))
	clients := make(chan string, 1)
	server := start(t, Options{Listen: addrs(t, "/ip4/127.0.0.1/tcp/0")})
	check(t, server.ServeBitswap(bitswap.Options{Store: store, Throttle: func(_ context.Context, client string, _ int) error {
		clients <- client
		return nil
	}}))
	src, err := start(t, Options{}).Bitswap(t.Context(), infoOf(server))
	check(t, err)
	_, err = cas.Get(t.Context(), src, c)
	check(t, err)
	if client := <-clients; client != "127.0.0.1" {
		t.Errorf("the client is %s", client)
	}
}

// Identify names a protocol that a peer begins to serve only after a moment.
func TestAPeerThatHasJustBegunToServeIsASource(t *testing.T) {
	t.Parallel()
	server, client := start(t, Options{Listen: addrs(t, "/ip4/127.0.0.1/tcp/0")}), start(t, Options{})
	check(t, client.connect(t.Context(), infoOf(server)))
	check(t, server.ServeBitswap(bitswap.Options{Store: cas.NewMemory()}))
	_, err := client.Bitswap(t.Context(), infoOf(server))
	check(t, err)
}

func TestARequestHasTheKeyOfItsPeer(t *testing.T) {
	public, private, err := ed25519.GenerateKey(rand.Reader)
	check(t, err)
	identity, err := crypto.UnmarshalEd25519PrivateKey(private)
	check(t, err)
	server := start(t, Options{Listen: addrs(t, "/ip4/127.0.0.1/tcp/0", "/ip4/127.0.0.1/udp/0/quic-v1")})
	keys := make(chan ed25519.PublicKey, 1)
	check(t, server.Serve(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { keys <- RemoteKey(r) })))
	for _, at := range server.host.Network().ListenAddresses() {
		client, err := start(t, Options{Identity: identity}).HTTP(t.Context(), peer.AddrInfo{ID: server.ID(), Addrs: []multiaddr.Multiaddr{at}})
		check(t, err)
		resp, err := client.Get("http://peer/")
		check(t, err)
		resp.Body.Close()
		if got := <-keys; !public.Equal(got) {
			t.Errorf("%s: got %x, want %x", at, got, public)
		}
	}
	if key := RemoteKey(httptest.NewRequest("GET", "/", nil)); key != nil {
		t.Errorf("a request over plain HTTP has the key %x", key)
	}
}
