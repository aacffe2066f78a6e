package peers

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

// webServer answers "hello" over TLS. Its certificate names host and is valid for a day around
// at. The pool has its issuer, whose certificate is always valid.
func webServer(t *testing.T, host string, at time.Time) (url string, issuers *x509.CertPool) {
	t.Helper()
	issue := func(c, parent *x509.Certificate, key, by *ecdsa.PrivateKey) *x509.Certificate {
		der, err := x509.CreateCertificate(rand.Reader, c, parent, key.Public(), by)
		if err != nil {
			t.Fatal(err)
		}
		out, err := x509.ParseCertificate(der)
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	newKey := func() *ecdsa.PrivateKey {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		return key
	}
	caKey, key := newKey(), newKey()
	ca := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "issuer"}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign, NotBefore: time.Unix(0, 0), NotAfter: time.Date(2100, 1, 1, 0, 0, 0, 0, time.UTC),
	}
	ca = issue(ca, ca, caKey, caKey)
	leaf := &x509.Certificate{SerialNumber: big.NewInt(2), NotBefore: at.Add(-12 * time.Hour), NotAfter: at.Add(12 * time.Hour)}
	if ip := net.ParseIP(host); ip != nil {
		leaf.IPAddresses = []net.IP{ip}
	} else {
		leaf.DNSNames = []string{host}
	}
	leaf = issue(leaf, ca, key, caKey)
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "hello") }))
	s.TLS = &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{leaf.Raw}, PrivateKey: key}}}
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	s.StartTLS()
	t.Cleanup(s.Close)
	issuers = x509.NewCertPool()
	issuers.AddCert(ca)
	return s.URL, issuers
}

func TestCertificateDatesAreIgnoredIfTheClockIsUnsure(t *testing.T) {
	now := time.Now()
	for _, tt := range []struct {
		name   string
		host   string
		at     time.Time
		issuer bool // the client trusts the issuer
		unsure bool // the clock may be wrong
		want   string
	}{
		{"a good certificate", "127.0.0.1", now, true, false, ""},
		{"a good certificate, unsure clock", "127.0.0.1", now, true, true, ""},
		{"not yet valid", "127.0.0.1", now.AddDate(1, 0, 0), true, false, "set the clock"},
		{"not yet valid, unsure clock", "127.0.0.1", now.AddDate(1, 0, 0), true, true, ""},
		{"expired", "127.0.0.1", now.AddDate(-1, 0, 0), true, false, "this machine's clock says"},
		{"expired, unsure clock", "127.0.0.1", now.AddDate(-1, 0, 0), true, true, ""},
		{"another name", "example.org", now, true, true, "127.0.0.1"},
		{"another name, expired", "example.org", now.AddDate(-1, 0, 0), true, true, "127.0.0.1"},
		{"unknown issuer", "127.0.0.1", now, false, true, "certificate of 127.0.0.1: unknown issuer; build the image with --ca"},
		{"unknown issuer, expired", "127.0.0.1", now.AddDate(-1, 0, 0), false, true, "certificate of 127.0.0.1: unknown issuer; build the image with --ca"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			url, issuers := webServer(t, tt.host, tt.at)
			if !tt.issuer {
				issuers = x509.NewCertPool()
			}
			var notes []string
			transport := newDatesTransport(&http.Transport{TLSClientConfig: &tls.Config{RootCAs: issuers}}, tt.unsure,
				func(err error) { notes = append(notes, err.Error()) })
			defer transport.CloseIdleConnections()
			client := &http.Client{Transport: transport}
			for range 2 {
				resp, err := client.Get(url)
				if err == nil {
					resp.Body.Close()
				}
				if (err == nil) != (tt.want == "") || (err != nil && !strings.Contains(err.Error(), tt.want)) {
					t.Fatalf("want %q, got %v", tt.want, err)
				}
			}
			passed := tt.want == "" && !tt.at.Equal(now)
			if (len(notes) == 1) != passed || passed && !strings.Contains(notes[0], "dates were ignored") {
				t.Errorf("notes: %q", notes)
			}
		})
	}
}

// The clocks of machines: never set, a day behind, three hours ahead, and the last year of an RTC. A clock
// that is within the dates changes nothing.
func TestAnyClockReachesAnHTTPSMirror(t *testing.T) {
	now := time.Now()
	for name, tt := range map[string]struct {
		clock time.Time
		noted bool
	}{
		"1970":              {time.Unix(0, 0).Add(24 * time.Hour), true},
		"a day behind":      {now.Add(-24 * time.Hour), true},
		"three hours ahead": {now.Add(3 * time.Hour), false},
		"2099":              {time.Date(2099, 6, 1, 0, 0, 0, 0, time.UTC), true},
	} {
		t.Run(name, func(t *testing.T) {
			url, issuers := webServer(t, "127.0.0.1", now)
			for _, unsure := range []bool{true, false} {
				notes := 0
				base := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: issuers, Time: func() time.Time { return tt.clock }}}
				transport := newDatesTransport(base, unsure, func(error) { notes++ })
				resp, err := (&http.Client{Transport: transport}).Get(url)
				if err == nil {
					resp.Body.Close()
				}
				transport.CloseIdleConnections()
				if (err == nil) != (unsure || !tt.noted) || (notes > 0) != (unsure && tt.noted) {
					t.Errorf("unsure %t: %d notes, %v", unsure, notes, err)
				}
			}
		})
	}
}
