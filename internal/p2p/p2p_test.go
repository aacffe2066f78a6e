package p2p

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/event"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/multiformats/go-multiaddr"
	"github.com/vishvananda/netlink"

	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/internal/ipnsname"
	"github.com/phaseboot/phaseboot/internal/netns"
	"github.com/phaseboot/phaseboot/internal/p2p/quic"
)

const testPrefix = "/phaseboot/test"

// start runs a Node until the test ends.
func start(t *testing.T, opts Options) *Node {
	t.Helper()
	opts.Transports = []Transport{quic.Transport}
	if testing.Verbose() {
		opts.Log = slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug}))
	}
	n, err := New(t.Context(), opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := n.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return n
}

func addrs(t *testing.T, texts ...string) []multiaddr.Multiaddr {
	t.Helper()
	out, err := ParseAddrs(texts)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func infoOf(n *Node) peer.AddrInfo {
	return peer.AddrInfo{ID: n.ID(), Addrs: n.host.Network().ListenAddresses()}
}

func within(t *testing.T, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

func ipnsKey(t *testing.T) (ed25519.PrivateKey, string) {
	t.Helper()
	pub, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	name, err := ipnsname.Of(pub)
	if err != nil {
		t.Fatal(err)
	}
	return key, name
}

// publish stores a record that points to a folder, and provides the folder.
func publish(t *testing.T, n *Node, key ed25519.PrivateKey, name string, seq uint64) {
	t.Helper()
	folder := cas.Sum(0x70, fmt.Appendf(nil, "folder %d", seq))
	rec, err := NewRecord(key, folder, seq, time.Now().Add(time.Hour), time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	if err := n.PutIPNS(within(t, time.Minute), name, rec); err != nil {
		t.Fatalf("put: %v", err)
	}
	if err := n.Provide(within(t, time.Minute), folder); err != nil {
		t.Fatalf("provide: %v", err)
	}
}

// resolve returns the sequence of the record and one provider of its folder.
func resolve(t *testing.T, n *Node, name string) (uint64, peer.AddrInfo) {
	t.Helper()
	rec, err := n.GetIPNS(within(t, time.Minute), name)
	if err != nil {
		t.Fatalf("get: %v", err)
	}
	folder, seq, err := CheckRecord(name, rec)
	if err != nil {
		t.Fatal(err)
	}
	for p := range n.FindProviders(within(t, time.Minute), folder) {
		return seq, p
	}
	t.Fatal("no provider found")
	return 0, peer.AddrInfo{}
}

func TestDHTThroughASeparateBootstrapNode(t *testing.T) {
	t.Parallel()
	listen := addrs(t, "/ip4/127.0.0.1/tcp/0")
	boot := start(t, Options{Listen: listen, DHT: DHTServer, Prefix: testPrefix})
	bootstrap := []peer.AddrInfo{infoOf(boot)}
	pub := start(t, Options{Listen: listen, DHT: DHTServer, Prefix: testPrefix, Bootstrap: bootstrap})
	key, name := ipnsKey(t)
	publish(t, pub, key, name, 7)

	client := start(t, Options{DHT: DHTClient, Prefix: testPrefix, Bootstrap: bootstrap})
	seq, provider := resolve(t, client, name)
	if seq != 7 || provider.ID != pub.ID() {
		t.Fatalf("got sequence %d of %s, want 7 of %s", seq, provider.ID, pub.ID())
	}
	publish(t, pub, key, name, 8)
	if seq, _ := resolve(t, client, name); seq != 8 {
		t.Fatalf("got sequence %d after the second put, want 8", seq)
	}
}

func TestDHTWhoseOnlyNodeIsThePublisher(t *testing.T) {
	t.Parallel()
	pub := start(t, Options{Listen: addrs(t, "/ip4/127.0.0.1/tcp/0"), DHT: DHTServer, Prefix: testPrefix})
	key, name := ipnsKey(t)
	folder := cas.Sum(0x70, []byte("alone"))
	rec, err := NewRecord(key, folder, 1, time.Now().Add(time.Hour), time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if err := pub.PutIPNS(ctx, name, rec); !errors.Is(err, cas.ErrUnreachable) {
		t.Fatalf("put with no neighbour: %v, want unreachable", err)
	}
	if err := pub.Provide(ctx, folder); !errors.Is(err, cas.ErrUnreachable) {
		t.Fatalf("provide with no neighbour: %v, want unreachable", err)
	}
	client := start(t, Options{DHT: DHTClient, Prefix: testPrefix, Bootstrap: []peer.AddrInfo{infoOf(pub)}})
	if seq, p := resolve(t, client, name); seq != 1 || p.ID != pub.ID() || len(p.Addrs) == 0 {
		t.Fatalf("got sequence %d of %v", seq, p)
	}
}

func TestDHTBootstrapNodeThatStartsLater(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	listen := addrs(t, fmt.Sprintf("/ip4/127.0.0.1/tcp/%d", l.Addr().(*net.TCPAddr).Port))
	boot := start(t, Options{}) // for an identity that listens later
	id := boot.host.Peerstore().PrivKey(boot.ID())
	client := start(t, Options{DHT: DHTClient, Prefix: testPrefix, Bootstrap: []peer.AddrInfo{{ID: boot.ID(), Addrs: listen}}})
	_, name := ipnsKey(t)
	if _, err := client.GetIPNS(within(t, 300*time.Millisecond), name); !errors.Is(err, cas.ErrUnreachable) {
		t.Fatalf("got %v, want unreachable", err)
	}
	boot.Close()
	l.Close()
	start(t, Options{Identity: id, Listen: listen, DHT: DHTServer, Prefix: testPrefix})
	if _, err := client.GetIPNS(within(t, time.Minute), name); !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("got %v, want not found", err)
	}
}

// Bootstrap nodes that accept a connection and send nothing come first in the list.
func TestStalledBootstrapNodesDelayNothing(t *testing.T) {
	t.Parallel()
	var bootstrap []peer.AddrInfo
	for range 3 {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { l.Close() })
		stalled := addrs(t, fmt.Sprintf("/ip4/127.0.0.1/tcp/%d", l.Addr().(*net.TCPAddr).Port))
		bootstrap = append(bootstrap, peer.AddrInfo{ID: randomPeer(t), Addrs: stalled})
	}
	boot := start(t, Options{Listen: addrs(t, "/ip4/127.0.0.1/tcp/0"), DHT: DHTServer, Prefix: testPrefix})
	client := start(t, Options{DHT: DHTClient, Prefix: testPrefix, Bootstrap: append(bootstrap, infoOf(boot))})
	_, name := ipnsKey(t)
	if _, err := client.GetIPNS(within(t, 25*time.Second), name); !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("got %v, want not found", err)
	}
}

func TestARestartedBootstrapNodeStoresNewRecords(t *testing.T) {
	t.Parallel()
	opts := Options{Listen: addrs(t, "/ip4/127.0.0.1/tcp/0"), DHT: DHTServer, Prefix: testPrefix}
	boot := start(t, opts)
	opts.Identity, opts.Listen = boot.host.Peerstore().PrivKey(boot.ID()), boot.host.Network().ListenAddresses()
	bootstrap := []peer.AddrInfo{infoOf(boot)}
	pub := start(t, Options{Listen: addrs(t, "/ip4/127.0.0.1/tcp/0"), DHT: DHTServer, Prefix: testPrefix, Bootstrap: bootstrap})
	key, name := ipnsKey(t)
	publish(t, pub, key, name, 1)
	connections, err := pub.host.EventBus().Subscribe(new(event.EvtPeerConnectednessChanged))
	check(t, err)
	boot.Close()
	waitUntilAlone(connections)
	start(t, opts)
	publish(t, pub, key, name, 2)
	client := start(t, Options{DHT: DHTClient, Prefix: testPrefix, Bootstrap: bootstrap})
	rec, err := client.GetIPNS(within(t, time.Minute), name)
	check(t, err)
	if _, seq, err := CheckRecord(name, rec); err != nil || seq != 2 {
		t.Fatalf("sequence %d, %v", seq, err)
	}
}

func TestUnknownNameIsNotFound(t *testing.T) {
	t.Parallel()
	boot := start(t, Options{Listen: addrs(t, "/ip4/127.0.0.1/tcp/0"), DHT: DHTServer, Prefix: testPrefix})
	client := start(t, Options{DHT: DHTClient, Prefix: testPrefix, Bootstrap: []peer.AddrInfo{infoOf(boot)}})
	_, name := ipnsKey(t)
	if _, err := client.GetIPNS(within(t, time.Minute), name); !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("got %v, want not found", err)
	}
}

func TestGatewayOverStreams(t *testing.T) {
	t.Parallel()
	for _, listen := range []string{"/ip4/127.0.0.1/tcp/0", "/ip4/127.0.0.1/udp/0/quic-v1"} {
		block := make([]byte, 200<<10)
		rand.Read(block)
		c := cas.Sum(0x55, block)
		server := start(t, Options{Listen: addrs(t, listen)})
		err := server.Serve(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path != "/ipfs/"+c.String() {
				http.NotFound(w, r)
				return
			}
			w.Header().Set("Content-Type", "application/vnd.ipld.raw")
			w.Write(block)
		}))
		if err != nil {
			t.Fatal(err)
		}
		client := start(t, Options{})
		gw, err := client.Gateway(within(t, 30*time.Second), infoOf(server))
		if err != nil {
			t.Fatal(err)
		}
		fetch := func() {
			t.Helper()
			if _, err := cas.Get(within(t, 30*time.Second), gw, c); err != nil {
				t.Fatal(err)
			}
		}
		for range 20 {
			fetch()
		}
		if _, err := gw.Block(t.Context(), cas.Sum(0x55, []byte("other"))); !errors.Is(err, fs.ErrNotExist) {
			t.Fatalf("got %v, want not found", err)
		}
		if err := client.host.Network().ClosePeer(server.ID()); err != nil {
			t.Fatal(err)
		}
		fetch() // connects again
		if err := server.Drain(within(t, 30*time.Second)); err != nil {
			t.Fatal(err)
		}
		if _, err := gw.Block(within(t, 30*time.Second), c); err == nil {
			t.Fatal("a drained server answers")
		}
	}
}

func TestGatewayToAPeerThatIsNotThere(t *testing.T) {
	t.Parallel()
	client := start(t, Options{})
	ended := start(t, Options{Listen: addrs(t, "/ip4/127.0.0.1/tcp/0")})
	info := infoOf(ended)
	ended.Close()
	if _, err := client.Gateway(within(t, 30*time.Second), info); !errors.Is(err, cas.ErrUnreachable) {
		t.Fatalf("got %v, want unreachable", err)
	}
}

func TestGatewayToAPeerThatServesNone(t *testing.T) {
	t.Parallel()
	node := start(t, Options{Listen: addrs(t, "/ip4/127.0.0.1/tcp/0"), DHT: DHTServer, Prefix: testPrefix})
	_, err := start(t, Options{}).Gateway(within(t, 30*time.Second), infoOf(node))
	if !errors.Is(err, cas.ErrUnreachable) || !strings.Contains(err.Error(), "serves no HTTP") {
		t.Fatalf("got %v", err)
	}
}

// Gateway waits for identify also on a connection that another call has just made.
func TestGatewayToAPeerThatIsBeingDialled(t *testing.T) {
	t.Parallel()
	server := start(t, Options{Listen: addrs(t, "/ip4/127.0.0.1/tcp/0")})
	check(t, server.Serve(http.NotFoundHandler()))
	for range 20 {
		client := start(t, Options{})
		_, err := client.host.Network().DialPeer(dialling(within(t, 30*time.Second), client, server), server.ID())
		check(t, err) // connected, not identified
		if _, err := client.Gateway(within(t, 30*time.Second), infoOf(server)); err != nil {
			t.Fatal(err)
		}
		client.Close()
	}
}

func dialling(ctx context.Context, from, to *Node) context.Context {
	from.host.Peerstore().AddAddrs(to.ID(), infoOf(to).Addrs, time.Minute)
	return ctx
}

func TestHTTPAddrsAreThoseOnTheIPWeAreConnectedTo(t *testing.T) {
	t.Parallel()
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "here") }))
	defer web.Close()
	port := web.Listener.Addr().(*net.TCPAddr).Port
	server := start(t, Options{
		Listen: addrs(t, "/ip4/127.0.0.1/tcp/0"),
		HTTP:   addrs(t, fmt.Sprintf("/ip4/0.0.0.0/tcp/%d/http", port), "/ip4/192.0.2.1/tcp/80/http", "/ip4/127.0.0.2/tcp/80/http"),
	})
	if err := server.Serve(http.NotFoundHandler()); err != nil {
		t.Fatal(err)
	}
	client := start(t, Options{})
	if _, err := client.Gateway(within(t, 30*time.Second), infoOf(server)); err != nil {
		t.Fatal(err)
	}
	want := []string{fmt.Sprintf("http://127.0.0.1:%d", port)}
	if got := client.HTTPAddrs(server.ID()); !slices.Equal(got, want) {
		t.Fatalf("got %q, want %q", got, want)
	}
	resp, err := http.Get(want[0])
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	for _, a := range server.Addrs() {
		if strings.Contains(a.String(), "/http") {
			t.Errorf("%s is shown as a libp2p address", a)
		}
	}
}

func TestP2PLinksNeitherQUICNorRelays(t *testing.T) {
	out, err := exec.Command("go", "list", "-deps", ".").Output()
	if err != nil {
		t.Fatal(err)
	}
	for _, heavy := range []string{
		"github.com/quic-go/quic-go", "github.com/pion/webrtc/v4", "go.uber.org/fx", "github.com/libp2p/go-libp2p",
		"github.com/libp2p/go-libp2p/p2p/host/autorelay", "github.com/libp2p/go-libp2p/p2p/protocol/circuitv2/client",
	} {
		if slices.Contains(strings.Fields(string(out)), heavy) {
			t.Errorf("%s is linked into every initramfs", heavy)
		}
	}
}

func TestQUICNeedsItsTransport(t *testing.T) {
	_, err := New(t.Context(), Options{Listen: addrs(t, "/ip4/127.0.0.1/udp/0/quic-v1")})
	if err == nil || !strings.Contains(err.Error(), "listen /ip4/127.0.0.1/udp/0/quic-v1") {
		t.Fatalf("got %v", err)
	}
}

func TestTakenPort(t *testing.T) {
	t.Parallel()
	for _, listen := range []string{"/ip4/127.0.0.1/tcp/0", "/ip4/127.0.0.1/udp/0/quic-v1"} {
		first := start(t, Options{Listen: addrs(t, listen)})
		_, err := New(t.Context(), Options{Transports: []Transport{quic.Transport}, Listen: first.host.Network().ListenAddresses()})
		if err == nil || !strings.Contains(err.Error(), "address in use") {
			t.Errorf("%s: got %v, want address in use", listen, err)
		}
	}
}

// Announcing an ended protocol to a peer that does not answer would delay Close.
func TestCloseAnnouncesNoEndedProtocol(t *testing.T) {
	for range 100 {
		server := start(t, Options{Listen: addrs(t, "/ip4/127.0.0.1/tcp/0")})
		if err := server.Serve(http.NotFoundHandler()); err != nil {
			t.Fatal(err)
		}
		client := start(t, Options{})
		for ctx := within(t, 30*time.Second); ; { // identify may name HTTP only after the connection
			_, err := client.Gateway(ctx, infoOf(server))
			if err == nil {
				break
			}
			if !errors.Is(err, ErrNoHTTP) || ctx.Err() != nil {
				t.Fatal(err)
			}
		}
		protocols, err := client.host.EventBus().Subscribe(new(event.EvtPeerProtocolsUpdated))
		ended, err2 := client.host.EventBus().Subscribe(new(event.EvtPeerConnectednessChanged))
		if err := errors.Join(err, err2); err != nil {
			t.Fatal(err)
		}
		server.Close()
		waitUntilAlone(ended)
		client.Close()
		for len(protocols.Out()) > 0 {
			if e := (<-protocols.Out()).(event.EvtPeerProtocolsUpdated); len(e.Removed) > 0 {
				t.Fatalf("the client received the end of %v", e.Removed)
			}
		}
	}
}

// waitUntilAlone waits until a node has lost its only peer.
func waitUntilAlone(connections event.Subscription) {
	for e := range connections.Out() {
		if e.(event.EvtPeerConnectednessChanged).Connectedness == network.NotConnected {
			return
		}
	}
}

func TestCloseLeavesNoGoroutineAndNoFile(t *testing.T) {
	if !netns.Inside(t) {
		return
	}
	check(t, netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: cableA}, PeerName: cableB})) // for mDNS
	up(t, cableA, announcerAddr)
	before, files := runtime.NumGoroutine(), openFiles(t)
	for range 3 {
		boot, err := New(t.Context(), Options{Transports: []Transport{quic.Transport}, Listen: addrs(t, "/ip4/127.0.0.1/tcp/0", "/ip4/127.0.0.1/udp/0/quic-v1"), DHT: DHTServer, Prefix: testPrefix, MDNS: true})
		if err != nil {
			t.Fatal(err)
		}
		if err := boot.Serve(http.NotFoundHandler()); err != nil {
			t.Fatal(err)
		}
		client, err := New(t.Context(), Options{DHT: DHTClient, Prefix: testPrefix, Bootstrap: []peer.AddrInfo{infoOf(boot)}, MDNS: true})
		if err != nil {
			t.Fatal(err)
		}
		gw, err := client.Gateway(within(t, 30*time.Second), infoOf(boot))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := gw.Block(within(t, 30*time.Second), cas.Sum(0x55, nil)); !errors.Is(err, fs.ErrNotExist) {
			t.Fatal(err)
		}
		client.Close()
		boot.Close()
	}
	deadline := time.Now().Add(time.Minute)
	for runtime.NumGoroutine() > before+2 || openFiles(t) > files {
		if time.Now().After(deadline) {
			buf := make([]byte, 1<<20)
			t.Fatalf("%d goroutines, %d files; before %d, %d\n%s", runtime.NumGoroutine(), openFiles(t), before, files, buf[:runtime.Stack(buf, true)])
		}
		time.Sleep(50 * time.Millisecond)
	}
}

func openFiles(t *testing.T) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}
