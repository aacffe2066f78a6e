package p2p

import (
	"cmp"
	"net/netip"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/protocol"
	rcmgr "github.com/libp2p/go-libp2p/p2p/host/resource-manager"
	"github.com/libp2p/go-libp2p/x/rate"
)

// Resources that a Node may use unless Options say otherwise. A machine that boots dials a few
// peers and may have 512 MB. A machine that listens serves its LAN. A publisher sets MaxConns.
const (
	dialConns   = 64  // connections of a Node that does not listen
	listenConns = 256 // connections of a Node that listens
	connsPerIP  = 64  // many machines behind one router share an IPv4 address

	connsPerSecond = 8         // new connections of one IP, after connsPerIP at once
	baseMemory     = 32 << 20  // bytes that the resource manager may grant without any connection
	connMemory     = 256 << 10 // bytes more for each connection: the smallest receive window of one stream
	connStreams    = 16        // open streams for each connection, on average
)

// conns returns how many connections a Node may accept, in all and from one IP.
func (o Options) conns() (all, perIP int) {
	all = dialConns
	if len(o.Listen) > 0 {
		all = listenConns
	}
	return cmp.Or(max(o.MaxConns, 0), all), cmp.Or(max(o.MaxConnsPerIP, 0), connsPerIP)
}

// resourceManager returns a resource manager with the limits of o. Its memory limit counts receive
// windows, which are allocated only as peers send.
func resourceManager(o Options) (network.ResourceManager, error) {
	conns, perIP := o.conns()
	limits := rcmgr.DefaultLimits
	base := limits.Scale(baseMemory+int64(conns)*connMemory, conns)
	return rcmgr.NewResourceManager(
		rcmgr.NewFixedLimiter(connLimits(conns).Build(base)),
		rcmgr.WithLimitPerSubnet(
			[]rcmgr.ConnLimitPerSubnet{{PrefixLength: 32, ConnCount: perIP}},
			[]rcmgr.ConnLimitPerSubnet{{PrefixLength: 56, ConnCount: perIP}, {PrefixLength: 48, ConnCount: 4 * perIP}}),
		rcmgr.WithConnRateLimiters(connRate(perIP)),
		rcmgr.WithMetricsDisabled())
}

// connLimits returns the limits that depend on the number of connections.
func connLimits(conns int) rcmgr.PartialLimitConfig {
	memory := rcmgr.LimitVal64(baseMemory + int64(conns)*connMemory)
	streams := rcmgr.LimitVal(conns * connStreams)
	in, out := rcmgr.LimitVal(conns), rcmgr.LimitVal(max(2*dialConns, conns/4))
	all := rcmgr.ResourceLimits{
		ConnsInbound: in, ConnsOutbound: out, Conns: in + out, FD: in + out,
		StreamsInbound: streams, StreamsOutbound: streams, Streams: 2 * streams, Memory: memory,
	}
	transient := all // connections during their handshake
	transient.ConnsInbound, transient.ConnsOutbound, transient.Memory = in/2, out, memory/4
	transient.Conns = transient.ConnsInbound + transient.ConnsOutbound
	transient.FD = transient.Conns
	return rcmgr.PartialLimitConfig{
		System: all, Transient: transient,
		Protocol: map[protocol.ID]rcmgr.ResourceLimits{
			httpProtocol: {StreamsInbound: streams, StreamsOutbound: streams, Streams: 2 * streams, Memory: memory},
		},
	}
}

// connRate limits new connections of one address. The library's own limit, one connection in five
// seconds after the first sixteen, would refuse a classroom behind one router.
func connRate(perIP int) *rate.Limiter {
	one := rate.Limit{RPS: connsPerSecond, Burst: perIP}
	return &rate.Limiter{
		NetworkPrefixLimits: []rate.PrefixLimit{
			{Prefix: netip.MustParsePrefix("127.0.0.0/8")}, {Prefix: netip.MustParsePrefix("::1/128")},
		},
		SubnetRateLimiter: rate.SubnetLimiter{
			IPv4SubnetLimits: []rate.SubnetLimit{{PrefixLength: 32, Limit: one}},
			IPv6SubnetLimits: []rate.SubnetLimit{{PrefixLength: 56, Limit: one}},
			GracePeriod:      connGrace,
		},
	}
}
