package client

import (
	"cmp"
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"strings"

	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/multiformats/go-multiaddr"

	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/internal/p2p"
	"github.com/phaseboot/phaseboot/internal/refusal"
)

// maxConns is how many machines one client may be connected to.
const maxConns = 4096

// Options say who a client is and where it looks for machines.
type Options struct {
	// Identity is the libp2p identity of this client: the key of a submitter, to whom a daemon lists
	// its jobs. nil is a new one.
	Identity ed25519.PrivateKey

	// Find says that machines are looked for. Without it, Network.Find finds none.
	Find bool

	// Repository is the ID of the repository whose machines are looked for, "" for any. Prefix is
	// the prefix of its DHT, "" for mDNS only.
	Repository string
	Prefix     string
	Bootstrap  []peer.AddrInfo

	Log *slog.Logger // nil: no log
}

// A Network reaches the daemons of other machines over libp2p streams. It listens to nothing.
type Network struct {
	options Options
	node    *p2p.Node
	log     *slog.Logger
}

// Join starts a libp2p host. The caller must close the Network.
func Join(ctx context.Context, o Options) (*Network, error) {
	opts := p2p.Options{MDNS: o.Find, DHT: p2p.DHTOff, MaxConns: maxConns, MaxConnsPerIP: maxConns, Log: o.Log}
	if o.Find && o.Prefix != "" {
		opts.DHT, opts.Prefix, opts.Bootstrap = p2p.DHTClient, o.Prefix, o.Bootstrap
	}
	if o.Identity != nil {
		key, err := crypto.UnmarshalEd25519PrivateKey(o.Identity)
		if err != nil {
			return nil, fmt.Errorf("peer identity: %w", err)
		}
		opts.Identity = key
	}
	node, err := p2p.New(ctx, opts)
	if err != nil {
		return nil, err
	}
	return &Network{o, node, cmp.Or(o.Log, slog.New(slog.DiscardHandler))}, nil
}

// Close ends all connections.
func (n *Network) Close() error { return n.node.Close() }

// Dial returns the client of the daemon of a peer. name is what messages call the machine.
func (n *Network) Dial(ctx context.Context, name string, info peer.AddrInfo) (*Client, error) {
	client, err := n.node.HTTP(ctx, info)
	if err != nil {
		return nil, unreachable(ctx, err)
	}
	client.Transport = dialed{client.Transport}
	return &Client{name, client}, nil
}

// dialed words the errors of a transport over streams that cannot connect again.
type dialed struct{ next http.RoundTripper }

func (d dialed) RoundTrip(req *http.Request) (*http.Response, error) {
	resp, err := d.next.RoundTrip(req)
	if err != nil && errors.Is(err, cas.ErrUnreachable) {
		err = dialError{unreachable(req.Context(), err)}
	}
	return resp, err
}

// CloseIdleConnections makes http.Client.CloseIdleConnections work.
func (d dialed) CloseIdleConnections() {
	if t, ok := d.next.(*http.Transport); ok {
		t.CloseIdleConnections()
	}
}

// errReplaced says that a peer with another key answers at the address of a machine.
var errReplaced = fmt.Errorf("another peer: %w", cas.ErrUnreachable)

// unreachable words the error of a peer that was not reached. libp2p joins the errors of all addresses
// without wrapping them.
func unreachable(ctx context.Context, err error) error {
	text := err.Error()
	switch {
	case errors.Is(ctx.Err(), context.Canceled):
		return context.Canceled
	case errors.Is(err, p2p.ErrNoHTTP):
		return refusal.New(ErrNotADaemon, "it is on, and no plasmd answers there; start it with 'plasmd serve'")
	case strings.Contains(text, "peer id mismatch"):
		return refusal.New(errReplaced, "another peer answers at this address: the machine there has another key; look for its peer ID again")
	case strings.Contains(text, "connection refused"):
		return refusal.New(cas.ErrUnreachable, "connection refused; is plasmd running there, on this port?")
	case strings.Contains(text, "no route to host"), strings.Contains(text, "network is unreachable"):
		return refusal.New(cas.ErrUnreachable, "no route to it; check the address and the network")
	case strings.Contains(text, "no addresses"):
		return refusal.New(cas.ErrUnreachable, "no address of it is known; name one as /ip4/ADDRESS/tcp/PORT/p2p/ID")
	}
	return refusal.New(cas.ErrUnreachable, "no answer; is the machine on?")
}

// NameOf returns what messages call a peer: IP and port of its first address, or its ID.
func NameOf(info peer.AddrInfo) string {
	for _, a := range info.Addrs {
		ip, ok := p2p.IPOf(a)
		if !ok {
			continue
		}
		if port, err := a.ValueForProtocol(multiaddr.P_TCP); err == nil {
			return net.JoinHostPort(ip.String(), port)
		}
	}
	return info.ID.String()
}

// ParseMachine reads a machine of the command line: a multiaddr with /p2p/ID, or a peer ID, whose address
// must be found. The error wraps fs.ErrInvalid.
func ParseMachine(text string) (peer.AddrInfo, error) {
	if strings.HasPrefix(text, "/") {
		infos, err := p2p.ParsePeers([]string{text})
		if err != nil {
			return peer.AddrInfo{}, fmt.Errorf("%w: %w", err, fs.ErrInvalid)
		}
		return infos[0], nil
	}
	if id, err := peer.Decode(text); err == nil {
		return peer.AddrInfo{ID: id}, nil
	}
	return peer.AddrInfo{}, refusal.Invalid("machine %.100q: write it like /ip4/192.0.2.1/tcp/4001/p2p/12D3…, or as the peer ID alone", text)
}
