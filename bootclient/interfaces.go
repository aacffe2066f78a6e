package bootclient

import (
	"errors"
	"net"
	"net/http"
	"net/url"

	"github.com/libp2p/go-libp2p/core/peer"
	manet "github.com/multiformats/go-multiaddr/net"

	"github.com/phaseboot/phaseboot/internal/bootargs"
)

// ErrNoInterface says that the machine has no network interface, so that no source can be
// reached until one appears. It is a cas.ErrUnreachable where Run returns it.
var ErrNoInterface = errors.New("no network interface but the loopback one")

// nowhere reports whether nothing can be reached: there is no interface but the loopback
// one, and no source on this machine.
func (d *discovery) nowhere() bool {
	all, err := d.cfg.interfaces()
	if err != nil {
		return false
	}
	for _, i := range all {
		if i.Flags&net.FlagLoopback == 0 || i.Flags&net.FlagMulticast != 0 {
			return false
		}
	}
	return !d.loopback()
}

// loopback reports whether somebody named a source, the proxy to one, or an entrance to the
// DHT on this machine.
func (d *discovery) loopback() bool {
	for _, m := range union(d.cfg.Mirrors, d.trust.HTTPS) {
		if u, err := url.Parse(m); err == nil && (u.Scheme == "file" || onLoopback(u.Hostname()) || d.proxyOnLoopback(u)) {
			return true
		}
	}
	for _, p := range union(union(d.cfg.Peers, d.cfg.Bootstrap), d.trust.Bootstrap) {
		if info, err := bootargs.ParsePeer(p); err == nil && peerOnLoopback(info) {
			return true
		}
	}
	return false
}

// proxyOnLoopback reports whether a mirror is asked through a proxy on this machine, as in a
// sandbox that has nothing else.
func (d *discovery) proxyOnLoopback(mirror *url.URL) bool {
	proxy, err := d.cfg.proxy()
	if err != nil || proxy == nil {
		return false
	}
	at, err := proxy(&http.Request{URL: mirror})
	return err == nil && at != nil && onLoopback(at.Hostname())
}

func onLoopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

func peerOnLoopback(info peer.AddrInfo) bool {
	for _, a := range info.Addrs {
		if manet.IsIPLoopback(a) {
			return true
		}
	}
	return false
}
