package peers

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"time"

	"github.com/phaseboot/phaseboot/bootclient/report"
)

// A datesTransport is an http.RoundTripper that explains a certificate refused for its dates.
// If the clock may be wrong, it ignores the dates: it checks the names and the chain again as of
// the certificate's first valid second. The bytes of the answer are verified by hash and
// signature in both cases.
type datesTransport struct {
	base        *http.Transport
	ignoreDates bool
	report      func(error) // called with what was ignored

	mu   sync.Mutex
	asOf map[string]*http.Transport // by host: base with another clock
}

func newDatesTransport(base *http.Transport, passOver bool, note func(error)) *datesTransport {
	return &datesTransport{base: base, ignoreDates: passOver, report: note, asOf: map[string]*http.Transport{}}
}

// RoundTrip sends a request without a body, at most twice.
func (d *datesTransport) RoundTrip(req *http.Request) (*http.Response, error) {
	resp, err := d.transport(req.URL.Host).RoundTrip(req)
	leaf := wrongDates(err)
	if leaf == nil {
		return resp, explainIssuer(err, req.URL.Hostname())
	}
	words := fmt.Errorf("certificate of %s: valid from %s to %s, and this machine's clock says %s", report.Clean(req.URL.Hostname()),
		leaf.NotBefore.UTC().Format(time.DateOnly), leaf.NotAfter.UTC().Format(time.DateOnly), time.Now().UTC().Format(time.DateTime))
	if !d.ignoreDates {
		return nil, fmt.Errorf("%w; set the clock if it is wrong", words)
	}
	resp, err = d.atIssueTime(req.URL.Host, leaf).RoundTrip(req)
	if err == nil {
		d.report(fmt.Errorf("%w; the dates were ignored, the name and the issuers were checked", words))
	}
	return resp, explainIssuer(err, req.URL.Hostname())
}

// CloseIdleConnections closes the idle connections of all transports.
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

// atIssueTime returns a copy of base whose clock stands at the first valid second of leaf.
func (d *datesTransport) atIssueTime(host string, leaf *x509.Certificate) *http.Transport {
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

// explainIssuer explains an error for a certificate whose issuer is not known. It returns other errors as
// they are.
func explainIssuer(err error, host string) error {
	if errors.As(err, new(x509.UnknownAuthorityError)) {
		return fmt.Errorf("certificate of %s: unknown issuer; build the image with --ca, or add the issuer to the certificates of this system", report.Clean(host))
	}
	return err
}

// wrongDates returns the server's certificate if err says that the clock is outside its dates
// or those of its issuers, else nil.
func wrongDates(err error) *x509.Certificate {
	var refused *tls.CertificateVerificationError
	var invalid x509.CertificateInvalidError
	if !errors.As(err, &refused) || !errors.As(err, &invalid) || invalid.Reason != x509.Expired || len(refused.UnverifiedCertificates) == 0 {
		return nil
	}
	return refused.UnverifiedCertificates[0]
}
