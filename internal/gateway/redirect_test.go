package gateway

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"strings"
	"testing"

	"github.com/phaseboot/phaseboot/cas"
)

// A web maps NAME:PORT to the server that is dialled for it.
type web map[string]*httptest.Server

func (w web) client() *http.Client {
	c := NewHTTP(func(ctx context.Context, network, addr string) (net.Conn, error) {
		s := w[addr]
		if s == nil {
			return dialer().DialContext(ctx, network, addr)
		}
		conn, err := new(net.Dialer).DialContext(ctx, network, s.Listener.Addr().String())
		if err != nil {
			return nil, err
		}
		return publicConn{conn}, nil
	})
	for _, s := range w {
		if s.TLS != nil {
			c.Transport.(*http.Transport).TLSClientConfig = s.Client().Transport.(*http.Transport).TLSClientConfig
		}
	}
	return c
}

// publicConn is a connection whose remote address is on the internet.
type publicConn struct{ net.Conn }

func (publicConn) RemoteAddr() net.Addr { return &net.TCPAddr{IP: net.IPv4(192, 88, 99, 1), Port: 80} }

func TestRedirectRules(t *testing.T) {
	f := newFixture(t)
	var auth, referer []string
	serve := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		auth, referer = append(auth, r.Header.Get("Authorization")), append(referer, r.Header.Get("Referer"))
		f.Config.Handler.ServeHTTP(w, r)
	})
	here := httptest.NewServer(serve)
	defer here.Close()
	secure := httptest.NewTLSServer(serve)
	defer secure.Close()
	var to string
	sends := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasPrefix(r.URL.Path, "/ipfs/") {
			http.Redirect(w, r, to+r.RequestURI, http.StatusMovedPermanently)
			return
		}
		f.Config.Handler.ServeHTTP(w, &http.Request{Method: "GET", URL: &url.URL{Path: strings.TrimPrefix(r.URL.Path, "/sub"), RawQuery: r.URL.RawQuery}, Header: r.Header})
	})
	plain := httptest.NewServer(sends)
	defer plain.Close()
	locked := httptest.NewTLSServer(sends)
	defer locked.Close()
	names := web{
		"example.com:80": plain, "example.com:443": secure, "other.example.com:80": here, "127.0.0.2:80": here,
		"locked.example.com:443": locked, "example.com:8080": here,
	}
	for name, row := range map[string]struct {
		base, to string
		peer     bool   // the gateway was found on the network
		want     string // "" for a block, else part of the error
		auth     bool   // the credentials of the base are sent
	}{
		"http to https":                     {"http://u:p@example.com", "https://example.com", false, "", true},
		"to another host":                   {"http://u:p@example.com", "http://other.example.com", false, "", false},
		"to a host with credentials":        {"http://example.com", "http://x:y@other.example.com", false, "", false},
		"to the same host, another port":    {"http://u:p@example.com", "http://example.com:8080", false, "", false},
		"to another path":                   {"http://u:p@example.com", "/sub", false, "", true},
		"https to http":                     {"https://locked.example.com", "http://example.com", false, "https to http", false},
		"to the local network":              {"http://example.com", here.URL, false, "from the internet to 127.0.0.1", false},
		"to a file":                         {"http://example.com", "file:///etc", false, "only http and https", false},
		"to another kind":                   {"http://example.com", "gopher://example.com", false, "only http and https", false},
		"to an onion service":               {"http://example.com", "http://EXAMPLE.onion.", false, "an onion service", false},
		"in the local network":              {plain.URL, here.URL, false, "", false},
		"of a found peer to another host":   {plain.URL, here.URL, true, "another host", false},
		"of a found peer to another scheme": {"http://example.com", "https://example.com", true, "another host", false},
		"of a found peer to another path":   {plain.URL, "/sub", true, "", false},
		"for ever":                          {"http://example.com", "http://example.com", false, "more than 5 redirects", false},
	} {
		t.Run(name, func(t *testing.T) {
			to, auth, referer = row.to, nil, nil
			c := &Client{Base: row.base, HTTP: names.client(), Redirects: !row.peer}
			_, err := cas.Get(t.Context(), c, f.leaves[3].CID)
			if row.want != "" {
				if !errors.Is(err, cas.ErrUnreachable) || !strings.Contains(err.Error(), row.want) {
					t.Errorf("got %v", err)
				}
				return
			}
			ok(t, err)
			for i := range auth {
				if (auth[i] != "") != row.auth || strings.Contains(auth[i], "eDp5") || referer[i] != "" {
					t.Errorf("the last server got credentials %q, referrer %q", auth[i], referer[i])
				}
			}
		})
	}
}

func TestAddressesThatARedirectFromTheInternetMayNotReach(t *testing.T) {
	for addr, public := range map[string]bool{
		"192.88.99.1": true, "8.8.8.8": true, "2600::1": true,
		"127.0.0.1": false, "::1": false, "10.0.0.1": false, "172.16.3.4": false, "192.168.1.1": false, "169.254.169.254": false,
		"fe80::1": false, "fd00::1": false, "100.64.0.1": false, "0.0.0.0": false, "::": false, "224.0.0.251": false, "ff02::fb": false,
		"::ffff:192.168.1.1": false, "::ffff:8.8.8.8": true, "255.255.255.255": false,
	} {
		if got := isPublic(netip.MustParseAddr(addr)); got != public {
			t.Errorf("%s: public %t", addr, got)
		}
	}
}
