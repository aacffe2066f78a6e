// Package peertls is the libp2p TLS handshake without the dates of certificates, so that a
// machine whose clock is wrong reaches its peers and is reached by them. Package p2p offers it
// before Noise, since AES in hardware moves more bytes; package quic takes its Template.
//
// It refuses a peer that does not prove to hold the key of the peer ID that was dialled, and a
// chain of any other length than one. Start at [New].
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
// A peer's identity key signs the key of the certificate, which each process makes anew: the
// certificate's dates tell what the clock of that process said, and nothing else.
type Transport struct {
	identity *libp2ptls.Identity
	local    peer.ID
	muxers   []string
}

// New returns the handshake of the identity that key is, over one of muxers. It fails for a
// key that makes no peer ID.
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

// Template is for one certificate of a peer. The certificate is valid at every time that a
// clock can show, so that libp2p peers that compare dates accept it too: from 1950, the first
// year that X.509 can write, to the end of 9999, which RFC 5280 (4.1.2.5) reads as "no end".
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

// ID is the name of the handshake for multistream-select.
func (t *Transport) ID() protocol.ID { return libp2ptls.ID }

// SecureInbound is the server's side. An empty remote takes any peer.
func (t *Transport) SecureInbound(ctx context.Context, raw net.Conn, remote peer.ID) (sec.SecureConn, error) {
	config, key := t.config(remote)
	config.GetConfigForClient = func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
		config.NextProtos = t.choose(hello.SupportedProtos, config.NextProtos)
		return config, nil
	}
	return t.handshake(ctx, raw, tls.Server(raw, config), key)
}

// SecureOutbound is the client's side.
func (t *Transport) SecureOutbound(ctx context.Context, raw net.Conn, remote peer.ID) (sec.SecureConn, error) {
	config, key := t.config(remote)
	return t.handshake(ctx, raw, tls.Client(raw, config), key)
}

// choose returns the first muxer that the client offers and this side has: the client's order
// counts. Without one it returns what this side offers.
func (t *Transport) choose(offered, own []string) []string {
	for _, p := range offered {
		for _, m := range t.muxers {
			if m == p {
				return []string{m}
			}
		}
	}
	return own
}

// config is for one handshake, which leaves the peer's key in *key.
func (t *Transport) config(remote peer.ID) (config *tls.Config, key *crypto.PubKey) {
	config, _ = t.identity.ConfigForPeer(remote)
	config.NextProtos = append(append([]string{}, t.muxers...), config.NextProtos...)
	key = new(crypto.PubKey)
	config.VerifyPeerCertificate = func(chain [][]byte, _ [][]*x509.Certificate) (err error) {
		*key, err = keyOf(chain, remote)
		return err
	}
	return config, key
}

// keyOf returns the key that vouches for a certificate chain of one, and refuses every other
// key than that of remote unless remote is empty. It passes over the certificate's dates.
func keyOf(chain [][]byte, remote peer.ID) (key crypto.PubKey, err error) {
	defer func() { // a crash of a parser would end a publisher
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
		now := time.Now() // what libp2p compares the dates with; the signature covers the raw bytes
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

func (t *Transport) handshake(ctx context.Context, raw net.Conn, over *tls.Conn, key *crypto.PubKey) (sec.SecureConn, error) {
	c, err := t.shake(ctx, over, key)
	if err != nil {
		raw.Close()
		return nil, err
	}
	return c, nil
}

func (t *Transport) shake(ctx context.Context, over *tls.Conn, key *crypto.PubKey) (*conn, error) {
	if err := over.HandshakeContext(ctx); err != nil {
		return nil, err
	}
	if *key == nil {
		return nil, errors.New("TLS handshake: the peer showed no key")
	}
	remote, err := peer.IDFromPublicKey(*key)
	if err != nil {
		return nil, err
	}
	c := &conn{Conn: over, local: t.local, remote: remote, key: *key}
	if p := over.ConnectionState().NegotiatedProtocol; p != "libp2p" { // which means: no muxer agreed on yet
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
