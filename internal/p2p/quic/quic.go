// Package quic is the QUIC transport of a p2p.Node. It is apart from p2p so that only publishers
// link it: a booting machine dials TCP, which is twice as fast, and keeps its initramfs in memory.
// Publishers pass Transport in p2p.Options. A Node without it refuses to listen on QUIC and never
// dials it.
package quic

import (
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"net"

	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/transport"
	libp2ptls "github.com/libp2p/go-libp2p/p2p/security/tls"
	libp2pquic "github.com/libp2p/go-libp2p/p2p/transport/quic"
	"github.com/libp2p/go-libp2p/p2p/transport/quicreuse"
	quicgo "github.com/quic-go/quic-go"

	"github.com/phaseboot/phaseboot/internal/p2p/peertls"
)

// Transport returns the transport, and a Closer to close after the host. Inbound connections count
// against limits from their first packet.
func Transport(key crypto.PrivKey, limits network.ResourceManager) (transport.Transport, io.Closer, error) {
	var reset quicgo.StatelessResetKey
	var token quicgo.TokenGeneratorKey
	rand.Read(reset[:])
	rand.Read(token[:])
	conns, err := quicreuse.NewConnManager(reset, token,
		quicreuse.ConnContext(func(ctx context.Context, info *quicgo.ClientInfo) (context.Context, error) {
			return scope(ctx, info, limits)
		}),
		quicreuse.VerifySourceAddress(func(addr net.Addr) bool { return limits.VerifySourceAddress(addr) }))
	if err != nil {
		return nil, nil, fmt.Errorf("QUIC: %w", err)
	}
	template, err := peertls.Template()
	if err != nil {
		return nil, nil, fmt.Errorf("QUIC: %w", err)
	}
	t, err := libp2pquic.NewTransport(key, conns, nil, nil, limits,
		libp2pquic.WithTLSIdentityOption(libp2ptls.WithCertTemplate(template)))
	if err != nil {
		conns.Close()
		return nil, nil, fmt.Errorf("QUIC: %w", err)
	}
	return t, conns, nil
}

// scope registers an inbound connection with the resource manager.
func scope(ctx context.Context, info *quicgo.ClientInfo, limits network.ResourceManager) (context.Context, error) {
	addr, err := quicreuse.ToQuicMultiaddr(info.RemoteAddr, quicgo.Version1)
	if err != nil {
		addr = nil // the resource manager decides about a connection without an address
	}
	conn, err := limits.OpenConnection(network.DirInbound, false, addr)
	if err != nil {
		return ctx, err
	}
	ctx = network.WithConnManagementScope(ctx, conn)
	context.AfterFunc(ctx, conn.Done)
	return ctx, nil
}
