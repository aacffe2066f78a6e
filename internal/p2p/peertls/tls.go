// Package peertls is the libp2p TLS handshake without a check of certificate dates, so that a
// machine with a wrong clock can dial peers and be dialled. Package p2p offers it before Noise,
// as AES in hardware is faster; package quic uses its Template.
//
// It refuses a peer that does not prove possession of the key of the dialled peer ID, and a
// certificate chain of any length but one. Start at [New].
package peertls

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"math/big"
	"net"
	"slices"
	"time"

	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"
	"github.com/libp2p/go-libp2p/core/sec"
	"github.com/libp2p/go-libp2p/p2p/net/upgrader"
	libp2ptls "github.com/libp2p/go-libp2p/p2p/security/tls"
)

// A Transport makes the handshake of https://github.com/libp2p/specs/blob/master/tls/tls.md.
// The identity key of a peer signs the key of the certificate. Each process makes a new
// certificate, so its dates only show the clock of that process.
type Transport struct {
	identity *libp2ptls.Identity
	local    peer.ID
	muxers   []string
}

// New returns the handshake for an identity key, with the stream muxers to negotiate. It fails for a
// key that has no peer ID.
func New(key crypto.PrivKey, muxers []upgrader.StreamMuxer) (*Transport, error) {
	local, err := peer.IDFromPrivateKey(key)
	if err != nil {
		return nil, err
	}
	template, err := Template()
	if err != nil {
		return nil, err
	}
	identity, err := libp2ptls.NewIdentity(key, libp2ptls.WithCertTemplate(template))
	if err != nil {
		return nil, err
	}
	t := &Transport{identity: identity, local: local}
	for _, m := range muxers {
		t.muxers = append(t.muxers, string(m.ID))
	}
	return t, nil
}

// Template returns the template of one certificate. The certificate is valid at any time, so that
// libp2p peers that compare dates accept it: from 1950, the first year that X.509 can encode, to
// the end of 9999, which means "no expiry" in RFC 5280 (4.1.2.5).
func Template() (*x509.Certificate, error) {
	serial, err := rand.Int(rand.Reader, big.NewInt(1<<62))
	if err != nil {
		return nil, err
	}
	subject, err := rand.Int(rand.Reader, big.NewInt(1<<62))
	if err != nil {
		return nil, err
	}
	return &x509.Certificate{
		SerialNumber: serial,
		Subject:      pkix.Name{SerialNumber: subject.String()},
		NotBefore:    time.Date(1950, 1, 1, 0, 0, 0, 0, time.UTC),
		NotAfter:     time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC),
	}, nil
}

// ID returns the protocol ID of the handshake for multistream-select.
func (t *Transport) ID() protocol.ID { return libp2ptls.ID }

// SecureInbound makes the handshake as server. An empty remote accepts any peer.
func (t *Transport) SecureInbound(ctx context.Context, raw net.Conn, remote peer.ID) (sec.SecureConn, error) {
	config, key := t.config(remote)
	config.GetConfigForClient = func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
		config.NextProtos = t.chooseMuxer(hello.SupportedProtos, config.NextProtos)
		return config, nil
	}
	return t.handshake(ctx, raw, tls.Server(raw, config), key)
}

// SecureOutbound makes the handshake as client.
func (t *Transport) SecureOutbound(ctx context.Context, raw net.Conn, remote peer.ID) (sec.SecureConn, error) {
	config, key := t.config(remote)
	return t.handshake(ctx, raw, tls.Client(raw, config), key)
}

// chooseMuxer returns the first muxer that the client offers and this side supports, in the order of the
// client. If there is none it returns own.
func (t *Transport) chooseMuxer(offered, own []string) []string {
	for _, p := range offered {
		if slices.Contains(t.muxers, p) {
			return []string{p}
		}
	}
	return own
}

// config returns the configuration of one handshake, which stores the key of the peer in *key.
func (t *Transport) config(remote peer.ID) (config *tls.Config, key *crypto.PubKey) {
	config, _ = t.identity.ConfigForPeer(remote)
	config.NextProtos = append(append([]string{}, t.muxers...), config.NextProtos...)
	key = new(crypto.PubKey)
	config.VerifyPeerCertificate = func(chain [][]byte, _ [][]*x509.Certificate) (err error) {
		*key, err = peerKey(chain, remote)
		return err
	}
	return config, key
}

// peerKey returns the identity key that signed a certificate chain of length one. It refuses a key that
// does not match remote, unless remote is empty, and ignores the dates of the certificate.
func peerKey(chain [][]byte, remote peer.ID) (key crypto.PubKey, err error) {
	defer func() { // a panic in a parser must not end the publisher
		if r := recover(); r != nil {
			err = fmt.Errorf("certificate of a peer: %v", r)
		}
	}()
	var certs []*x509.Certificate
	for _, der := range chain {
		cert, err := x509.ParseCertificate(der)
		if err != nil {
			return nil, err
		}
		now := time.Now() // libp2p compares the dates with it; the signature covers the raw bytes
		cert.NotBefore, cert.NotAfter = now.Add(-time.Hour), now.Add(time.Hour)
		certs = append(certs, cert)
	}
	if key, err = libp2ptls.PubKeyFromCertChain(certs); err != nil {
		return nil, err
	}
	if remote != "" && !remote.MatchesPublicKey(key) {
		actual, err := peer.IDFromPublicKey(key)
		if err != nil {
			return nil, err
		}
		return nil, sec.ErrPeerIDMismatch{Expected: remote, Actual: actual}
	}
	return key, nil
}

func (t *Transport) handshake(ctx context.Context, raw net.Conn, over *tls.Conn, key *crypto.PubKey) (_ sec.SecureConn, err error) {
	defer func() {
		if err != nil {
			raw.Close()
		}
	}()
	if err := over.HandshakeContext(ctx); err != nil {
		return nil, err
	}
	if *key == nil {
		return nil, errors.New("TLS handshake: no key from the peer")
	}
	remote, err := peer.IDFromPublicKey(*key)
	if err != nil {
		return nil, err
	}
	c := &conn{Conn: over, local: t.local, remote: remote, key: *key}
	if p := over.ConnectionState().NegotiatedProtocol; p != "libp2p" { // no muxer was negotiated
		c.state = network.ConnectionState{StreamMultiplexer: protocol.ID(p), UsedEarlyMuxerNegotiation: p != ""}
	}
	return c, nil
}

// A conn is a sec.SecureConn.
type conn struct {
	*tls.Conn
	local, remote peer.ID
	key           crypto.PubKey
	state         network.ConnectionState
}

func (c *conn) LocalPeer() peer.ID                 { return c.local }
func (c *conn) RemotePeer() peer.ID                { return c.remote }
func (c *conn) RemotePublicKey() crypto.PubKey     { return c.key }
func (c *conn) ConnState() network.ConnectionState { return c.state }
