package peertls

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"net"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/sec"
	libp2ptls "github.com/libp2p/go-libp2p/p2p/security/tls"
)

// clocks are times at which a peer's clock may have been when it made its certificate.
var clocks = map[string]time.Time{
	"1970":       time.Unix(0, 0),
	"a day ago":  time.Now().Add(-24 * time.Hour),
	"now":        time.Now(),
	"in 3 hours": time.Now().Add(3 * time.Hour),
	"2099":       time.Date(2099, 1, 1, 0, 0, 0, 0, time.UTC),
}

func newKey(t *testing.T) (crypto.PrivKey, peer.ID) {
	t.Helper()
	key, _, err := crypto.GenerateEd25519Key(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	id, err := peer.IDFromPrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return key, id
}

func newTransport(t *testing.T, key crypto.PrivKey) *Transport {
	t.Helper()
	s, err := New(key, nil)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// withClock returns the Transport of a peer whose certificate is valid for two hours around a time.
func withClock(t *testing.T, key crypto.PrivKey, at time.Time) *Transport {
	t.Helper()
	template, err := Template()
	if err != nil {
		t.Fatal(err)
	}
	template.NotBefore, template.NotAfter = at.Add(-time.Hour), at.Add(time.Hour)
	s := newTransport(t, key)
	if s.identity, err = libp2ptls.NewIdentity(key, libp2ptls.WithCertTemplate(template)); err != nil {
		t.Fatal(err)
	}
	return s
}

// handshake runs both sides of a handshake over TCP.
func handshake(t *testing.T, client, server sec.SecureTransport, want peer.ID) (dialled, accepted error) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	done := make(chan error, 1)
	go func() {
		c, err := l.Accept()
		if err == nil {
			defer c.Close()
			_, err = server.SecureInbound(ctx, c, "")
		}
		done <- err
	}()
	c, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_, err = client.SecureOutbound(ctx, c, want)
	return err, <-done
}

func TestPeersWithAnyClockConnect(t *testing.T) {
	for mine, myClock := range clocks {
		for theirs, theirClock := range clocks {
			key, _ := newKey(t)
			peerKey, id := newKey(t)
			dialled, accepted := handshake(t, withClock(t, key, myClock), withClock(t, peerKey, theirClock), id)
			if dialled != nil || accepted != nil {
				t.Errorf("clock %s dials clock %s: %v, accepted: %v", mine, theirs, dialled, accepted)
			}
		}
	}
}

func TestAnotherKeyIsRefusedAtAnyDate(t *testing.T) {
	key, _ := newKey(t)
	other, _ := newKey(t)
	_, wanted := newKey(t)
	dialled, _ := handshake(t, newTransport(t, key), newTransport(t, other), wanted)
	if !errors.As(dialled, &sec.ErrPeerIDMismatch{}) {
		t.Errorf("another key than the one dialled: %v", dialled)
	}
}

// selfSigned makes a certificate for a new key, with the given extensions.
func selfSigned(t *testing.T, extensions ...pkix.Extension) []byte {
	t.Helper()
	template, err := Template()
	if err != nil {
		t.Fatal(err)
	}
	template.ExtraExtensions = extensions
	key := newECDSA(t)
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

func newECDSA(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func TestACertificateThatTheIdentityDidNotSignIsRefused(t *testing.T) {
	key, id := newKey(t)
	elsewhere, err := libp2ptls.GenerateSignedExtension(key, newECDSA(t).Public())
	if err != nil {
		t.Fatal(err)
	}
	for name, chain := range map[string][][]byte{
		"none":                                 {},
		"two":                                  {selfSigned(t), selfSigned(t)},
		"not one":                              {[]byte("certificate")},
		"without the key extension":            {selfSigned(t)},
		"signed for another certificate's key": {selfSigned(t, elsewhere)},
	} {
		if got, err := peerKey(chain, id); err == nil {
			t.Errorf("certificate %s: taken as that of %v", name, got)
		}
	}
}

// Peers that check dates, such as stock libp2p, accept our certificate at any time.
func TestOurCertificateIsValidAtEveryTime(t *testing.T) {
	key, id := newKey(t)
	ours := newTransport(t, key)
	config, _ := ours.config("")
	cert, err := x509.ParseCertificate(config.Certificates[0].Certificate[0])
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(cert)
	for name, at := range clocks {
		if _, err := cert.Verify(x509.VerifyOptions{Roots: pool, CurrentTime: at}); err != nil {
			t.Errorf("clock %s: %v", name, err)
		}
	}
	otherKey, otherID := newKey(t)
	stock, err := libp2ptls.New(libp2ptls.ID, otherKey, nil)
	if err != nil {
		t.Fatal(err)
	}
	if dialled, accepted := handshake(t, stock, ours, id); dialled != nil || accepted != nil {
		t.Errorf("stock libp2p dials us: %v, %v", dialled, accepted)
	}
	if dialled, accepted := handshake(t, ours, stock, otherID); dialled != nil || accepted != nil {
		t.Errorf("we dial stock libp2p: %v, %v", dialled, accepted)
	}
}
