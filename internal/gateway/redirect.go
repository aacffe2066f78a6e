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
)

// maxRedirects is how many redirects of one request are followed.
const maxRedirects = 5

// redirect decides whether a redirect is followed. Blocks are named by their hash, so where
// they come from does not matter, but what a redirect makes this machine do does: the
// package comment has the rules.
func (c *Client) redirect(req *http.Request, via []*http.Request) error {
	first, from, to := via[0].URL, via[len(via)-1].URL, req.URL
	switch {
	case len(via) > maxRedirects:
		return fmt.Errorf("more than %d redirects", maxRedirects)
	case to.Scheme != "http" && to.Scheme != "https":
		return fmt.Errorf("redirect to %.20q: only http and https are followed", to.Scheme)
	case from.Scheme == "https" && to.Scheme == "http":
		return errors.New("redirect from https to http refused")
	case !c.Redirects && !sameOrigin(first, to):
		return fmt.Errorf("redirect to another host %.80q refused", to.Host)
	}
	req.Header.Del("Referer")
	authorize(req, first)
	if t, ok := req.Context().Value(tripKey{}).(*trip); ok {
		t.redirected.Store(true)
	}
	return nil
}

// authorize gives a redirected request the credentials of the first URL if it goes to the
// same server, and none otherwise: neither forwarded ones nor those of a Location header.
func authorize(req *http.Request, first *url.URL) {
	req.Header.Del("Authorization")
	req.URL.User = nil
	if first.User != nil && (sameOrigin(first, req.URL) || upgraded(first, req.URL)) {
		req.URL.User = first.User
	}
}

func sameOrigin(a, b *url.URL) bool {
	return a.Scheme == b.Scheme && strings.EqualFold(a.Hostname(), b.Hostname()) && port(a) == port(b)
}

// upgraded reports whether b is the server of a with https for http, both at their usual ports.
func upgraded(a, b *url.URL) bool {
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

// A trip is one request with its redirects. A server on the internet must not send a machine
// to its own network: a router there may take a GET for a command.
type trip struct {
	public     atomic.Bool // a connection went to a public address
	redirected atomic.Bool
}

type tripKey struct{}

// onTrip returns a context whose requests are watched by checkDial.
func onTrip(ctx context.Context) context.Context {
	t := &trip{}
	ctx = context.WithValue(ctx, tripKey{}, t)
	return httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{GotConn: func(info httptrace.GotConnInfo) {
		if ap, err := netip.ParseAddrPort(info.Conn.RemoteAddr().String()); err == nil && isPublic(ap.Addr()) {
			t.public.Store(true)
		}
	}})
}

// checkDial is a net.Dialer's ControlContext: it refuses the connection of a redirect that
// leads from a public address to one that is not.
func checkDial(ctx context.Context, _, address string, _ syscall.RawConn) error {
	t, ok := ctx.Value(tripKey{}).(*trip)
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

// dialer is plain TCP with a deadline.
func dialer() *net.Dialer {
	return &net.Dialer{Timeout: DefaultIdle, KeepAlive: 15 * time.Second, ControlContext: checkDial}
}
