package publisher

import (
	"fmt"
	"io/fs"

	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/multiformats/go-multiaddr"

	"github.com/phaseboot/phaseboot/internal/p2p"
	"github.com/phaseboot/phaseboot/internal/p2p/nat"
	"github.com/phaseboot/phaseboot/internal/p2p/quic"
	"github.com/phaseboot/phaseboot/manifest"
)

// The DHT that a daemon joins.
const (
	DHTPrivate = "private" // the repository's own, with the prefix in root.json
	DHTPublic  = "public"  // that of IPFS
	DHTOff     = "off"
)

// What a daemon does about a NAT router in front of it.
const (
	NATOff    = "off"
	NATAuto   = "auto"   // map ports, ask peers whether they can dial this one, use relays if not
	NATBehind = "behind" // the same without asking peers first
)

// Network is the network configuration of serve and bootstrap.
type Network struct {
	Listen, Announce []multiaddr.Multiaddr
	Bootstrap        []peer.AddrInfo // in addition to those in root.json
	DHT              string          // DHTPrivate (also ""), DHTPublic or DHTOff
	NAT              string          // NATOff (also ""), NATAuto or NATBehind
	Relay            bool            // relay for publishers behind routers, and report to them whether they can be dialled
}

// options returns the options of a node for a Network and the discovery in root.json.
func (n Network) options(d manifest.Discovery) (p2p.Options, error) {
	out := p2p.Options{Listen: n.Listen, Announce: n.Announce, Bootstrap: n.Bootstrap, DHT: p2p.DHTServer, Transports: []p2p.Transport{quic.Transport}}
	switch n.NAT {
	case NATOff, "":
	case NATAuto, NATBehind:
		out.Router = nat.Router()
		out.Services = append(out.Services, nat.AutoRelay(n.NAT == NATBehind))
	default:
		return out, fmt.Errorf("NAT %q: unknown (%w); use %s, %s or %s", n.NAT, fs.ErrInvalid, NATOff, NATAuto, NATBehind)
	}
	if n.Relay {
		out.Services = append(out.Services, nat.Relay)
	}
	switch n.DHT {
	case DHTOff:
		out.DHT = p2p.DHTOff
	case DHTPublic:
		out.Prefix = p2p.PublicPrefix
		out.Bootstrap = append(p2p.PublicBootstrap(), out.Bootstrap...)
	case DHTPrivate, "":
		if d.DHTPrefix == "" {
			return out, fmt.Errorf("DHT: root.json names no private prefix (%w); use --dht off or --dht public", fs.ErrInvalid)
		}
		known, err := p2p.ParsePeers(d.Bootstrap)
		if err != nil {
			return out, fmt.Errorf("root.json: bootstrap: %w", err)
		}
		out.Prefix, out.Bootstrap = d.DHTPrefix, append(known, out.Bootstrap...)
	default:
		return out, fmt.Errorf("DHT %q: unknown (%w); use %s, %s or %s", n.DHT, fs.ErrInvalid, DHTPrivate, DHTPublic, DHTOff)
	}
	return out, nil
}
