package peers

import (
	"errors"
	"net"
	"net/url"
	"slices"

	manet "github.com/multiformats/go-multiaddr/net"

	"github.com/phaseboot/phaseboot/internal/bootargs"
)

// ErrNoInterface says that the machine has no network interface, so that no source can be
// reached until there is one. Where Run returns it, it is a cas.ErrUnreachable too.
var ErrNoInterface = errors.New("no network interface but the loopback one")

// noNetwork reports whether nothing can be reached: the machine has only the loopback
// interface, and no source is on this machine.
func (d *Discovery) noNetwork() bool { return d.unreachable(0) }

// NoLink reports whether nothing can be reached at present: no network interface has a link, and no
// source is on this machine.
func (d *Discovery) NoLink() bool { return d.unreachable(net.FlagRunning) }

// unreachable reports whether no interface but the loopback one has all of the flags, and no source is on
// this machine.
func (d *Discovery) unreachable(flags net.Flags) bool {
	all, err := d.Interfaces()
	if err != nil {
		return false
	}
	for _, i := range all {
		if i.Flags&flags == flags && (i.Flags&net.FlagLoopback == 0 || i.Flags&net.FlagMulticast != 0) {
			return false
		}
	}
	return !d.loopback()
}

// loopback reports whether a named source, its proxy or a bootstrap node is on this machine.
func (d *Discovery) loopback() bool {
	for _, m := range slices.Concat(d.Mirrors, d.Trust.HTTPS) {
		if u, err := url.Parse(m); err == nil && (u.Scheme == "file" || onLoopback(u.Hostname()) || d.proxyOnLoopback(m)) {
			return true
		}
	}
	for _, p := range slices.Concat(d.Peers, d.Bootstrap, d.Trust.Bootstrap) {
		if info, err := bootargs.ParsePeer(p); err == nil && slices.ContainsFunc(info.Addrs, manet.IsIPLoopback) {
			return true
		}
	}
	return false
}

// proxyOnLoopback reports whether a mirror's proxy is on this machine, as in a sandbox without
// other network access.
func (d *Discovery) proxyOnLoopback(mirror string) bool {
	proxy := d.proxyOf(mirror)
	return proxy != nil && onLoopback(proxy.Hostname())
}

func onLoopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}
