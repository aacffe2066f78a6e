package p2p

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/libp2p/go-libp2p"
	"github.com/libp2p/go-libp2p/core/network"
	rcmgr "github.com/libp2p/go-libp2p/p2p/host/resource-manager"
	"github.com/libp2p/go-libp2p/p2p/net/connmgr"
	quic "github.com/libp2p/go-libp2p/p2p/transport/quic"
	"github.com/libp2p/go-libp2p/p2p/transport/tcp"
	"github.com/multiformats/go-multiaddr"
)

const (
	dialTimeout  = 10 * time.Second
	serverMemory = 512 << 20 // bytes the resource manager may hand out when we listen
	clientMemory = 64 << 20
)

// hostOptions builds the libp2p options: TCP (without SO_REUSEPORT, so that a taken
// port is noticed), QUIC only when asked to listen on it, and none of the services
// that need strangers.
func hostOptions(opts Options) ([]libp2p.Option, error) {
	serves := len(opts.Listen) > 0
	limits, err := resourceManager(serves)
	if err != nil {
		return nil, fmt.Errorf("libp2p limits: %w", err)
	}
	low, high := 16, 64
	if serves {
		low, high = 128, 256
	}
	conns, err := connmgr.NewConnManager(low, high, connmgr.WithGracePeriod(20*time.Second))
	if err != nil {
		return nil, fmt.Errorf("libp2p connections: %w", err)
	}
	out := []libp2p.Option{
		libp2p.Identity(opts.Identity),
		libp2p.NoListenAddrs, // New listens itself, address by address
		libp2p.Transport(tcp.NewTCPTransport, tcp.DisableReuseport()),
		libp2p.ResourceManager(limits),
		libp2p.ConnectionManager(conns),
		libp2p.AddrsFactory(addrsFactory(opts.Announce, opts.HTTP)),
		libp2p.UserAgent("phaseboot"),
		libp2p.WithDialTimeout(dialTimeout),
		libp2p.DisableRelay(),
		libp2p.DisableMetrics(),
		libp2p.DisableIdentifyAddressDiscovery(),
		libp2p.ForceReachabilityPublic(), // no NAT probing
		libp2p.Ping(false),
	}
	if slices.ContainsFunc(opts.Listen, isQUIC) {
		out = append(out, libp2p.Transport(quic.NewTransport))
	}
	return out, nil
}

func resourceManager(serves bool) (network.ResourceManager, error) {
	limits := rcmgr.DefaultLimits
	libp2p.SetDefaultServiceLimits(&limits)
	memory, fds := int64(clientMemory), 128
	if serves {
		memory, fds = serverMemory, 1024
	}
	// Many machines behind one router share an IPv4 address.
	perIP := rcmgr.WithLimitPerSubnet(
		[]rcmgr.ConnLimitPerSubnet{{PrefixLength: 32, ConnCount: 64}},
		[]rcmgr.ConnLimitPerSubnet{{PrefixLength: 56, ConnCount: 64}, {PrefixLength: 48, ConnCount: 256}})
	return rcmgr.NewResourceManager(rcmgr.NewFixedLimiter(limits.Scale(memory, fds)), perIP, rcmgr.WithMetricsDisabled())
}

func isQUIC(a multiaddr.Multiaddr) bool {
	_, err := a.ValueForProtocol(multiaddr.P_QUIC_V1)
	return err == nil
}

// listenError words a refused Listen address. libp2p drops the chain of the cause,
// so a taken port is told by its text.
func listenError(a multiaddr.Multiaddr, err error) error {
	if errors.Is(err, syscall.EADDRINUSE) || strings.Contains(err.Error(), syscall.EADDRINUSE.Error()) {
		return fmt.Errorf("listen %s: address in use; choose another port or stop the other process", a)
	}
	return fmt.Errorf("listen %s: %w", a, err)
}
