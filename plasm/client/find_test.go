package client

import (
	"context"
	"crypto/ed25519"
	"errors"
	"io"
	"io/fs"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/vishvananda/netlink"

	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/internal/netns"
	"github.com/phaseboot/phaseboot/internal/p2p"
	"github.com/phaseboot/phaseboot/plasm/api"
)

const (
	testPrefix = "/phaseboot/test"
	ours       = "0123456789abcdef0123456789abcdef"
)

// node starts a libp2p host on loopback that serves a handler, and returns it with its address.
func node(t *testing.T, key ed25519.PrivateKey, h http.Handler, opts p2p.Options) (*p2p.Node, peer.AddrInfo) {
	t.Helper()
	identity, err := crypto.UnmarshalEd25519PrivateKey(key)
	check(t, err)
	if opts.Listen == nil {
		opts.Listen, err = p2p.ParseAddrs([]string{"/ip4/127.0.0.1/tcp/0"})
		check(t, err)
	}
	opts.Identity = identity
	n, err := p2p.New(t.Context(), opts)
	check(t, err)
	t.Cleanup(func() { n.Close() })
	if h != nil {
		check(t, n.Serve(h))
	}
	info := peer.AddrInfo{ID: n.ID()}
	for _, a := range n.Addrs() {
		one, err := peer.AddrInfoFromP2pAddr(a)
		check(t, err)
		info.Addrs = append(info.Addrs, one.Addrs...)
	}
	return n, info
}

func join(t *testing.T, o Options) *Network {
	t.Helper()
	n, err := Join(t.Context(), o)
	check(t, err)
	t.Cleanup(func() { n.Close() })
	return n
}

func TestATaskRunsOverTheNetwork(t *testing.T) {
	f := newFake()
	_, info := node(t, keyOf('m'), f, p2p.Options{})
	n := join(t, Options{Identity: keyOf('s')})
	machines, err := n.Machines(t.Context(), Choice{Named: []peer.AddrInfo{info}})
	check(t, err)
	m := machines[0]
	check(t, m.Err)
	if want := NameOf(info); m.Name != want || !strings.HasPrefix(want, "127.0.0.1:") {
		t.Errorf("the machine is called %q", m.Name)
	}
	work := task(t)
	job, err := work.Submit(t.Context(), m)
	check(t, err)
	_, err = work.Finish(t.Context(), m, job.ID, io.Discard, io.Discard)
	check(t, err)
}

func TestAMachineThatIsNotThereIsNamedWithTheReason(t *testing.T) {
	closed, gone := node(t, keyOf('g'), nil, p2p.Options{})
	closed.Close()
	_, other := node(t, keyOf('o'), nil, p2p.Options{})
	_, gateway := node(t, keyOf('h'), http.NotFoundHandler(), p2p.Options{})
	wrong := peer.AddrInfo{ID: gone.ID, Addrs: other.Addrs}
	_, working := node(t, keyOf('m'), newFake(), p2p.Options{})
	n := join(t, Options{})
	machines, err := n.Machines(t.Context(), Choice{Named: []peer.AddrInfo{gone, other, gateway, working}})
	check(t, err)
	for i, says := range []string{"connection refused", "no plasmd answers there", "no plasmd answers there", ""} {
		if m := machines[i]; says == "" {
			check(t, m.Err)
		} else if !errors.Is(m.Err, cas.ErrUnreachable) || !strings.Contains(m.Err.Error(), says) {
			t.Errorf("%d: %v, want %q", i, m.Err, says)
		}
	}
	machines, err = n.Machines(t.Context(), Choice{Named: []peer.AddrInfo{wrong}})
	check(t, err)
	if err := machines[0].Err; !errors.Is(err, errReplaced) || !errors.Is(err, cas.ErrUnreachable) {
		t.Errorf("another peer at the address: %v", err)
	}
}

// The DHT of the repository names five providers: two daemons, a machine of another repository, one that serves
// something else, and one that is off. The last one is reported.
func TestTheDHTFindsTheMachinesOfTheRepository(t *testing.T) {
	_, bootInfo := node(t, keyOf('0'), nil, p2p.Options{DHT: p2p.DHTServer, Prefix: testPrefix})
	bootstrap := []peer.AddrInfo{bootInfo}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	busy, idle, other := newFake(), newFake(), newFake()
	busy.repository, idle.repository, other.repository = ours, ours, "ffffffffffffffffffffffffffffffff"
	busy.running = 2
	ids := map[string]peer.ID{}
	handlers := map[string]http.Handler{"busy": busy, "idle": idle, "other": other, "web": http.NotFoundHandler()}
	for _, name := range []string{"busy", "idle", "other", "web", "gone"} { // the last one provides to all others
		n, info := node(t, keyOf(name[0]), handlers[name], p2p.Options{DHT: p2p.DHTServer, Prefix: testPrefix, Bootstrap: bootstrap})
		check(t, n.Provide(ctx, api.Rendezvous(ours)))
		ids[name] = info.ID
		if name == "gone" {
			n.Close()
		}
	}
	options := Options{Find: true, Repository: ours, Prefix: testPrefix, Bootstrap: bootstrap}
	search, stop := context.WithCancel(ctx)
	defer stop()
	found := map[peer.ID]error{}
	for m := range join(t, options).Find(search) {
		found[m.Info.ID] = m.Err
		if len(found) == 3 { // a fourth one would come soon
			time.AfterFunc(2*time.Second, stop)
		}
	}
	if err, ok := found[ids["gone"]]; len(found) != 3 || found[ids["busy"]] != nil || found[ids["idle"]] != nil || !ok || !errors.Is(err, cas.ErrUnreachable) {
		t.Errorf("found %v of %v", found, ids)
	}

	// two are enough, and the search ends with them
	one, err := join(t, options).Machines(ctx, Choice{Count: 2, Search: time.Minute})
	check(t, err)
	if len(one) != 2 || one[0].Info.ID != ids["idle"] {
		t.Errorf("of two machines the first is %v, not the idle one", one)
	}
	if _, err := join(t, options).Machines(ctx, Choice{Count: 3, Search: 3 * time.Second}); !errors.Is(err, cas.ErrUnreachable) || !strings.Contains(err.Error(), "2 of 3 machines") {
		t.Errorf("three of two machines: %v", err)
	}

	// a peer ID is enough
	named, err := join(t, options).Machines(ctx, Choice{Named: []peer.AddrInfo{{ID: ids["idle"]}}, Search: time.Minute})
	check(t, err)
	if len(named) != 1 || named[0].Err != nil || named[0].Name != ids["idle"].String() {
		t.Errorf("by its ID: %+v", named)
	}
	unknown, err := join(t, options).Machines(ctx, Choice{Named: []peer.AddrInfo{{ID: bootInfo.ID}}, Search: time.Second})
	check(t, err)
	if err := unknown[0].Err; !errors.Is(err, cas.ErrUnreachable) || !strings.Contains(err.Error(), "not found in 1s") {
		t.Errorf("an ID that is no daemon: %v", err)
	}
}

// Roles of TestMDNSFindsTheMachinesOfTheRepository: two network namespaces with a cable between them.
const (
	roleEnv = "PHASE_PLASM_TEST_ROLE"
	cableA  = "plasm0"
	cableB  = "plasm1"
)

func TestMDNSFindsTheMachinesOfTheRepository(t *testing.T) {
	switch os.Getenv(roleEnv) {
	case "":
		check(t, self(t, "machines", netns.Attributes()).Run())
	case "machines":
		check(t, netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: cableA}, PeerName: cableB}))
		operator := self(t, "operator", &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET})
		in, err := operator.StdinPipe()
		check(t, err)
		check(t, operator.Start())
		far, err := netlink.LinkByName(cableB)
		check(t, err)
		check(t, netlink.LinkSetNsPid(far, operator.Process.Pid))
		up(t, cableA, "10.78.0.1/24")
		all, err := p2p.ParseAddrs([]string{"/ip4/0.0.0.0/tcp/0"})
		check(t, err)
		for i, repository := range []string{ours, ours, "ffffffffffffffffffffffffffffffff"} {
			f := newFake()
			f.repository = repository
			node(t, keyOf(byte('0'+i)), f, p2p.Options{Listen: all, MDNS: true})
		}
		node(t, keyOf('w'), http.NotFoundHandler(), p2p.Options{Listen: all, MDNS: true})
		check(t, in.Close())
		check(t, operator.Wait())
	case "operator":
		_, err := io.ReadAll(os.Stdin)
		check(t, err)
		up(t, cableB, "10.78.0.2/24")
		for repository, want := range map[string]int{ours: 2, "": 3} {
			machines, err := join(t, Options{Find: true, Repository: repository}).Machines(t.Context(), Choice{All: true, Search: 5 * time.Second})
			check(t, err)
			if len(machines) != want || answered(machines) != want {
				t.Errorf("repository %q: found %+v, want %d", repository, machines, want)
			}
		}
	}
}

// self returns a command that runs the calling test in another role.
func self(t *testing.T, role string, attr *syscall.SysProcAttr) *exec.Cmd {
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^"+t.Name()+"$", "-test.timeout=5m")
	cmd.Env = append(os.Environ(), roleEnv+"="+role)
	cmd.SysProcAttr = attr
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	return cmd
}

// up gives an interface an address and brings it up.
func up(t *testing.T, name, addr string) {
	t.Helper()
	link, err := netlink.LinkByName(name)
	check(t, err)
	a, err := netlink.ParseAddr(addr)
	check(t, err)
	check(t, netlink.AddrAdd(link, a))
	check(t, netlink.LinkSetUp(link))
}

func TestMachinesOfTheCommandLine(t *testing.T) {
	const id = "12D3KooWRQYxvmt7VyfsDzi3oQfqT5Roqm7M7Uom9xwbmYb5Ktrj"
	for text, addrs := range map[string]int{ // -1: refused
		id:                                       0,
		"/ip4/192.0.2.1/tcp/4001/p2p/" + id:      1,
		"/dns4/example.org/tcp/4001/p2p/" + id:   1,
		"/ip4/192.0.2.1/tcp/4001":                -1,
		"192.0.2.1:4001":                         -1,
		"/ip4/192.0.2.1/tcp/four/p2p/" + id:      -1,
		"":                                       -1,
		"/run/plasm/plasmd.sock":                 -1,
		"/ip4/192.0.2.1/tcp/4001/p2p/12D3KooWRQ": -1,
	} {
		info, err := ParseMachine(text)
		if (err != nil) != (addrs < 0) || err == nil && len(info.Addrs) != addrs || err != nil && !errors.Is(err, fs.ErrInvalid) {
			t.Errorf("%q: %v, %v", text, info, err)
		}
	}
}
