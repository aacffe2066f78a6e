package bootclient

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"time"
)

// A datesTransport is an http.RoundTripper that names the clock when it refuses a server's
// certificate. Where the clock may be wrong it passes over the dates: it verifies the names and
// the chain once more, as of the moment at which the certificate was issued. What comes over the
// connection is judged by its hashes and signatures either way.
type datesTransport struct {
	base     *http.Transport
	passOver bool
	note     func(error) // what was passed over

	mu   sync.Mutex
	asOf map[string]*http.Transport // by the request's host: base with another time
}

func newDatesTransport(base *http.Transport, passOver bool, note func(error)) *datesTransport {
	return &datesTransport{base: base, passOver: passOver, note: note, asOf: map[string]*http.Transport{}}
}

// RoundTrip sends a request without a body, at most twice.
func (d *datesTransport) RoundTrip(req *http.Request) (*http.Response, error) {
	resp, err := d.transport(req.URL.Host).RoundTrip(req)
	leaf := wrongDates(err)
	if leaf == nil {
		return resp, err
	}
	words := fmt.Errorf("certificate of %s: valid from %s to %s, and this machine's clock says %s", clean(req.URL.Hostname()),
		leaf.NotBefore.UTC().Format(time.DateOnly), leaf.NotAfter.UTC().Format(time.DateOnly), time.Now().UTC().Format(time.DateTime))
	if !d.passOver {
		return nil, fmt.Errorf("%w; set the clock if it is wrong", words)
	}
	resp, err = d.issued(req.URL.Host, leaf).RoundTrip(req)
	if err == nil {
		d.note(fmt.Errorf("%w; its dates were passed over, its name and its issuers were not", words))
	}
	return resp, err
}

// CloseIdleConnections closes those of the base and of its copies.
func (d *datesTransport) CloseIdleConnections() {
	d.base.CloseIdleConnections()
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, t := range d.asOf {
		t.CloseIdleConnections()
	}
}

func (d *datesTransport) transport(host string) *http.Transport {
	d.mu.Lock()
	defer d.mu.Unlock()
	if t := d.asOf[host]; t != nil {
		return t
	}
	return d.base
}

// issued is the base with a clock that stands at the moment when leaf began to be valid.
func (d *datesTransport) issued(host string, leaf *x509.Certificate) *http.Transport {
	t := d.base.Clone()
	if t.TLSClientConfig == nil {
		t.TLSClientConfig = &tls.Config{}
	}
	t.TLSClientConfig.Time = func() time.Time { return leaf.NotBefore }
	d.mu.Lock()
	defer d.mu.Unlock()
	if old := d.asOf[host]; old != nil {
		old.CloseIdleConnections()
	}
	d.asOf[host] = t
	return t
}

// wrongDates returns the server's certificate when err is that the clock is outside of its dates
// or those of its issuers, and nil for every other error.
func wrongDates(err error) *x509.Certificate {
	var refused *tls.CertificateVerificationError
	var invalid x509.CertificateInvalidError
	if !errors.As(err, &refused) || !errors.As(err, &invalid) || invalid.Reason != x509.Expired || len(refused.UnverifiedCertificates) == 0 {
		return nil
	}
	return refused.UnverifiedCertificates[0]
}
