package network

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/phaseboot/phaseboot/internal/bootargs"
)

const (
	// routeProtocol marks the routes of this package in the kernel's table.
	routeProtocol = 80

	// The metric of a port's routes is one of these plus its rank: the kernel uses the lowest.
	metricReaches = 100   // a source accepted a connection from the port
	metricUsual   = 500   // below 1024, that of the kernel's IPv6 routes
	metricDead    = 10000 // the gateway does not answer ARP

	connectTimeout = 3 * time.Second
	maxChecked     = 8 // sources
)

var (
	anywhere4 = &net.IPNet{IP: net.IPv4zero.To4(), Mask: net.CIDRMask(0, 32)}
	anywhere6 = &net.IPNet{IP: net.IPv6zero, Mask: net.CIDRMask(0, 128)}
)

// routeVia returns a route. A gateway of 0.0.0.0 means that the destination is on the link.
func routeVia(index int, to *net.IPNet, gw net.IP) netlink.Route {
	r := netlink.Route{LinkIndex: index, Dst: to, Protocol: routeProtocol}
	if gw.IsUnspecified() {
		r.Scope = netlink.SCOPE_LINK
	} else {
		// On-link, because the router may be outside the subnet of the lease.
		r.Gw, r.Flags = gw, int(netlink.FLAG_ONLINK)
	}
	return r
}

func isDefault(r netlink.Route) bool {
	if r.Dst == nil {
		return true
	}
	ones, _ := r.Dst.Mask.Size()
	return ones == 0 && r.Dst.IP.IsUnspecified()
}

// metric returns the metric of the port's routes.
func (p *port) metric() int {
	switch {
	case p.reaches4 || p.reaches6:
		return metricReaches + p.rank
	case p.gatewayDead:
		return metricDead + p.rank
	}
	return metricUsual + p.rank
}

// installRoutes installs the routes of a port's lease and static addresses with its metric, and
// removes those that it installed before.
func (n *Network) installRoutes(p *port) error {
	var want []netlink.Route
	if p.lease != nil {
		want = slices.Clone(p.lease.routes)
	}
	for _, s := range p.static {
		if s.Gateway.IsValid() {
			to := anywhere4
			if s.Gateway.Is6() {
				to = anywhere6
			}
			want = append(want, routeVia(p.index, to, s.Gateway.AsSlice()))
		}
	}
	var errs []error
	for i := range want {
		want[i].Priority = p.metric()
		if err := netlink.RouteReplace(&want[i]); err != nil {
			errs = append(errs, fmt.Errorf("route to %s: %w", want[i].Dst, err))
		}
	}
	for _, old := range p.routes {
		if !slices.ContainsFunc(want, func(r netlink.Route) bool { return r.Equal(old) }) {
			_ = netlink.RouteDel(&old) // the kernel may have removed it with its address
		}
	}
	p.routes = want
	return errors.Join(errs...)
}

// A path is a port with a default route, for a check that runs beside the loop: of the port it reads only
// what never changes, its link and its name.
type path struct {
	port     *port
	gateway4 netip.Addr
	servers  []netip.Addr

	dead               bool // result: the gateway does not answer ARP
	reaches4, reaches6 string
}

// paths returns the ports with a link and a default route.
func (n *Network) paths() (list []*path) {
	for _, p := range n.sorted() {
		if !p.carrier {
			continue
		}
		c := &path{port: p, servers: n.portServers(p)}
		for _, r := range p.routes {
			if isDefault(r) && r.Gw.To4() != nil {
				c.gateway4, _ = netip.AddrFromSlice(r.Gw.To4())
			}
		}
		if slices.ContainsFunc(p.routes, isDefault) || routerDefault(p.link) != nil {
			list = append(list, c)
		}
	}
	return list
}

// routerDefault returns the IPv6 default route that the kernel has from a router on the link, nil if
// there is none.
func routerDefault(link netlink.Link) *netlink.Route {
	routes, err := netlink.RouteListFiltered(netlink.FAMILY_V6, &netlink.Route{LinkIndex: link.Attrs().Index}, netlink.RT_FILTER_OIF)
	if err != nil {
		return nil
	}
	for _, r := range routes {
		if isDefault(r) && r.Gw != nil && r.Protocol != routeProtocol {
			return &r
		}
	}
	return nil
}

// checkPaths checks, if more than one port has a default route, which gateways answer and from which
// ports a source can be reached. With one default route there is nothing to choose and nothing is
// sent.
func (n *Network) checkPaths() {
	if n.checking {
		n.recheck = true
		return
	}
	list := n.paths()
	if len(list) < 2 {
		for _, p := range n.ports {
			n.prefer(p, &path{})
		}
		return
	}
	n.checking = true
	go func() {
		var tasks sync.WaitGroup
		for _, c := range list {
			tasks.Go(func() { c.check(n.ctx, n.Sources) })
		}
		tasks.Wait()
		n.do(n.ctx, func() { n.checked(list) })
	}()
}

// checked takes the results of a check.
func (n *Network) checked(list []*path) {
	n.checking = false
	for _, c := range list {
		p := c.port
		if n.ports[p.index] != p || !p.carrier {
			continue
		}
		wasDead, reached := p.gatewayDead, p.reaches4 || p.reaches6
		n.prefer(p, c) // before the line that says so
		if c.dead && !wasDead {
			n.Report("network: %s: gateway %s does not answer; its routes are the last choice", p.name, c.gateway4)
		}
		if source := c.reaches4 + c.reaches6; source != "" && !reached {
			n.Report("network: %s reaches %s; its routes are preferred", p.name, bootargs.Redact(source))
		}
	}
	n.writeServers()
	if n.recheck {
		n.recheck = false
		n.checkPaths()
	}
}

// prefer sets the metrics of a port's routes by the result of a check.
func (n *Network) prefer(p *port, c *path) {
	before := p.metric()
	p.gatewayDead, p.reaches4, p.reaches6 = c.dead, c.reaches4 != "", c.reaches6 != ""
	if p.metric() != before {
		if err := n.installRoutes(p); err != nil {
			n.Report("network: %s: %v", p.name, err)
		}
	}
	n.preferRouter(p)
}

// preferRouter copies the default route of an IPv6 router with a lower metric while a source is
// reached through it, as the kernel gives all such routes the same metric.
func (n *Network) preferRouter(p *port) {
	if p.copy6 != nil && !p.reaches6 {
		_ = netlink.RouteDel(p.copy6)
		p.copy6 = nil
	}
	if !p.reaches6 || p.copy6 != nil {
		return
	}
	r := routerDefault(p.link)
	if r == nil {
		return
	}
	better := routeVia(p.index, anywhere6, r.Gw)
	better.Priority = metricReaches + p.rank
	if err := netlink.RouteReplace(&better); err != nil {
		n.Report("network: %s: IPv6 default route: %v", p.name, err)
		return
	}
	p.copy6 = &better
}

// check asks the gateway for its hardware address and, at the same time, tries to connect to each
// source through the port.
func (c *path) check(ctx context.Context, sources []string) {
	var tasks sync.WaitGroup
	if c.gateway4.IsValid() {
		tasks.Go(func() { c.dead = !answersARP(ctx, c.port.link, c.gateway4) })
	}
	for _, s := range sources[:min(len(sources), maxChecked)] {
		at, err := c.connect(ctx, s)
		switch {
		case err != nil:
			continue
		case at.Is4():
			c.reaches4 = s
		default:
			c.reaches6 = s
		}
		break
	}
	tasks.Wait()
}

// connect connects to a source through the port, and returns its address.
func (c *path) connect(ctx context.Context, source string) (netip.Addr, error) {
	ctx, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	var next atomic.Int32
	d := net.Dialer{Control: bindTo(c.port.name), Resolver: &net.Resolver{
		PreferGo: true,
		Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
			if len(c.servers) == 0 {
				return nil, fmt.Errorf("%s: no name server", c.port.name)
			}
			server := c.servers[int(next.Add(1)-1)%len(c.servers)]
			bound := net.Dialer{Control: bindTo(c.port.name)}
			return bound.DialContext(ctx, network, netip.AddrPortFrom(server, 53).String())
		},
	}}
	conn, err := d.DialContext(ctx, "tcp", source)
	if err != nil {
		return netip.Addr{}, err
	}
	defer conn.Close()
	at, err := netip.ParseAddrPort(conn.RemoteAddr().String())
	return at.Addr().Unmap().WithZone(""), err
}

// bindTo binds a socket to an interface.
func bindTo(name string) func(string, string, syscall.RawConn) error {
	return func(_, _ string, raw syscall.RawConn) error {
		var bindErr error
		err := raw.Control(func(fd uintptr) { bindErr = unix.BindToDevice(int(fd), name) })
		return errors.Join(err, bindErr)
	}
}
