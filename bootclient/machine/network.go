package machine

import (
	"context"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	manet "github.com/multiformats/go-multiaddr/net"

	"github.com/phaseboot/phaseboot/bootclient"
	"github.com/phaseboot/phaseboot/bootclient/network"
	"github.com/phaseboot/phaseboot/internal/bootargs"
	"github.com/phaseboot/phaseboot/manifest"
)

const (
	resolvFile = "/etc/resolv.conf"
	pciTimeout = 500 * time.Millisecond // for a network card on a machine without USB
)

// network configures the network. It returns at the first address; the network goes on in the
// background.
func (b *boot) network(ctx context.Context) (summary string, err error) {
	b.startNetwork(ctx)
	return b.awaitNetwork()
}

// startNetwork begins to configure the network, without waiting for anything.
func (b *boot) startNetwork(ctx context.Context) {
	c := b.networkConfig()
	c.Private, c.AskMirror, c.Sources = b.config.Mode.RandomMAC, b.config.Mode.DHCPMirror, sourceAddresses(b.config, b.args.Proxy)
	c.Resolv, c.Report, c.LoadModule, c.NICTimeout, c.Deadline = resolvFile, b.report.Say, loadModule, pciTimeout, b.firstAddress
	if hasUSB("/sys") {
		c.NICTimeout = 0
	}
	b.net, b.networkErr = network.Start(ctx, c)
}

// networkConfig returns what the command line says of ports.
func (b *boot) networkConfig() network.Config {
	return network.Config{IP: b.args.IP, VLANs: b.args.VLANs, Bonds: b.args.Bonds, Interfaces: b.args.Interfaces}
}

// awaitNetwork waits for the first address.
func (b *boot) awaitNetwork() (summary string, err error) {
	if b.net == nil {
		return "", b.networkErr
	}
	summary, b.networkErr = b.net.Wait()
	b.config.Heard = b.net.Mirrors
	return summary, b.networkErr
}

// networkStep waits for the network. It waits less if the cache can boot alone, which is found out
// meanwhile. It keeps its result for the summary of a failed attempt.
func (b *boot) networkStep(ctx context.Context) (summary string, err error) {
	check, cancel := context.WithCancel(ctx)
	config := b.config // awaitNetwork changes it
	found := make(chan *manifest.Verified, 1)
	go func() {
		v, err := bootclient.Cached(check, config)
		if err == nil && b.net != nil {
			b.net.Hurry()
		}
		found <- v // nil after an error
	}()
	summary, err = b.awaitNetwork()
	cancel()
	b.alone = <-found
	if b.networkWords = summary; err != nil {
		b.networkWords, _, _ = strings.Cut(err.Error(), ";") // the step has printed the remedy
	}
	return summary, err
}

// leaveNetwork gives the leases back before the jump, in a mode whose target has no network.
func (b *boot) leaveNetwork() {
	if b.net == nil || !b.config.Mode.RandomMAC {
		return
	}
	summary, err := b.net.Leave()
	if err != nil {
		b.report.Say("network: leases: %v", err)
		return
	}
	b.report.Say("network: %s", summary)
}

// useProxy sets the proxy of phase.proxy= for mirrors. A proxy of the mode is preferred.
func useProxy(c *bootclient.Config, proxy string) {
	if u, err := url.Parse(proxy); proxy != "" && err == nil {
		c.Proxy = http.ProxyURL(u)
	}
}

// sourceAddresses returns the sources of a boot that accept TCP connections, as HOST:PORT: the proxy, if
// there is one, else the mirrors, the named peers and the bootstrap nodes. With Tor there is none.
func sourceAddresses(c bootclient.Config, proxy string) (out []string) {
	if c.Mode.Tor { // Tor's own connections are not known
		return nil
	}
	if c.Mode.Proxy != "" {
		proxy = c.Mode.Proxy
	}
	if proxy != "" {
		return webAddresses([]string{proxy})
	}
	mirrors, peers := c.Mirrors, append(append([]string{}, c.Peers...), c.Bootstrap...)
	if root, err := manifest.ParseRoot(c.Root); err == nil {
		if c.Mode.Uses("mirror") {
			mirrors = append(append([]string{}, mirrors...), root.Discovery().HTTPS...)
		}
		if c.Mode.Uses("dht") {
			peers = append(peers, root.Discovery().Bootstrap...)
		}
	}
	out = webAddresses(mirrors)
	for _, p := range peers {
		info, err := bootargs.ParsePeer(p)
		if err != nil {
			continue
		}
		for _, a := range info.Addrs {
			if proto, at, err := manet.DialArgs(a); err == nil && (proto == "tcp4" || proto == "tcp6") {
				out = append(out, at)
			}
		}
	}
	return out
}

// webAddresses returns the servers of URLs.
func webAddresses(urls []string) (out []string) {
	ports := map[string]string{"http": "80", "https": "443", "socks5": "1080", "socks5h": "1080"}
	for _, s := range urls {
		u, err := url.Parse(s)
		if err != nil || u.Hostname() == "" {
			continue
		}
		port := u.Port()
		if port == "" {
			port = ports[u.Scheme]
		}
		out = append(out, net.JoinHostPort(u.Hostname(), port))
	}
	return out
}
