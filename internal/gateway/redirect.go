package gateway

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/netip"
	"net/url"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/phaseboot/phaseboot/internal/onion"
)

// maxRedirects is how many redirects of one request are followed.
const maxRedirects = 5

// redirect decides whether a redirect is followed; the package comment has the rules. The server
// that a block comes from does not matter, as its CID is checked. The request that a redirect
// makes this machine send does matter.
func (c *Client) redirect(req *http.Request, via []*http.Request) error {
	first, from, to := via[0].URL, via[len(via)-1].URL, req.URL
	switch {
	case len(via) > maxRedirects:
		return fmt.Errorf("more than %d redirects", maxRedirects)
	case to.Scheme != "http" && to.Scheme != "https":
		return fmt.Errorf("redirect to %.20q: only http and https are followed", to.Scheme)
	case from.Scheme == "https" && to.Scheme == "http":
		return errors.New("redirect from https to http refused")
	case onion.IsName(to.Hostname()) && !onion.IsName(first.Hostname()):
		return errors.New("redirect to an onion service refused: without Tor its name would be asked of a DNS server; name it as a mirror")
	case !c.Redirects && !sameOrigin(first, to):
		return fmt.Errorf("redirect to another host %.80q refused", to.Host)
	}
	req.Header.Del("Referer")
	setCredentials(req, first)
	if t, ok := req.Context().Value(redirectKey{}).(*redirectState); ok {
		t.redirected.Store(true)
	}
	return nil
}

// setCredentials adds the credentials of the first URL to a redirected request if it goes to the same
// server, and removes all others, forwarded ones and those of a Location header.
func setCredentials(req *http.Request, first *url.URL) {
	req.Header.Del("Authorization")
	req.URL.User = nil
	if first.User != nil && (sameOrigin(first, req.URL) || isHTTPSUpgrade(first, req.URL)) {
		req.URL.User = first.User
	}
}

func sameOrigin(a, b *url.URL) bool {
	return a.Scheme == b.Scheme && strings.EqualFold(a.Hostname(), b.Hostname()) && port(a) == port(b)
}

// isHTTPSUpgrade reports whether b is the server of a with https in place of http, both at their
// default ports.
func isHTTPSUpgrade(a, b *url.URL) bool {
	return a.Scheme == "http" && b.Scheme == "https" && strings.EqualFold(a.Hostname(), b.Hostname()) && port(a) == "80" && port(b) == "443"
}

func port(u *url.URL) string {
	switch {
	case u.Port() != "":
		return u.Port()
	case u.Scheme == "https":
		return "443"
	}
	return "80"
}

// A redirectState is one request with its redirects. A redirect from a server on the internet must not
// lead into the local network, where a router may take a GET for a command.
type redirectState struct {
	public     atomic.Bool // a connection went to a public address
	redirected atomic.Bool
}

type redirectKey struct{}

// withRedirectState returns a context whose connections checkDial checks.
func withRedirectState(ctx context.Context) context.Context {
	t := &redirectState{}
	ctx = context.WithValue(ctx, redirectKey{}, t)
	return httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{GotConn: func(info httptrace.GotConnInfo) {
		if ap, err := netip.ParseAddrPort(info.Conn.RemoteAddr().String()); err == nil && isPublic(ap.Addr()) {
			t.public.Store(true)
		}
	}})
}

// checkDial is the ControlContext of a net.Dialer. It refuses the connection of a redirect from
// a public address to one that is not public.
func checkDial(ctx context.Context, _, address string, _ syscall.RawConn) error {
	t, ok := ctx.Value(redirectKey{}).(*redirectState)
	if !ok || !t.redirected.Load() || !t.public.Load() {
		return nil
	}
	if ap, err := netip.ParseAddrPort(address); err == nil && !isPublic(ap.Addr()) {
		return fmt.Errorf("redirect from the internet to %s refused", ap.Addr())
	}
	return nil
}

var sharedAddresses = netip.MustParsePrefix("100.64.0.0/10") // RFC 6598

func isPublic(ip netip.Addr) bool {
	ip = ip.Unmap()
	return ip.IsGlobalUnicast() && !ip.IsPrivate() && !sharedAddresses.Contains(ip)
}

// dialer dials plain TCP with a deadline.
func dialer() *net.Dialer {
	return &net.Dialer{Timeout: DefaultIdle, KeepAlive: 15 * time.Second, ControlContext: checkDial}
}
