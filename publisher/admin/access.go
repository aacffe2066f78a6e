package admin

import (
	"bytes"
	"cmp"
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/phaseboot/phaseboot/internal/file"
	"github.com/phaseboot/phaseboot/internal/limit"
	"github.com/phaseboot/phaseboot/internal/refusal"
)

// A Config says where the page is and who may read it.
type Config struct {
	Addr     string // HOST:PORT; without HOST 127.0.0.1; "" for no page
	Token    string // file with the token that readers need; "" for none
	Cert     string // file with the certificate of the page, PEM; with Key the page is HTTPS
	Key      string
	ClientCA string   // file with certificates, PEM: readers need a client certificate that one of them signed
	Mirrors  []string // URLs whose heads are compared
	Receipts string   // folder of jobs' receipts; "" for none

	// ReadReceipt verifies the receipt in a file.
	ReadReceipt func(data []byte) (Receipt, error)
}

const (
	minToken     = 16 // characters
	maxToken     = 4 << 10
	maxPEM       = 1 << 20
	sessionLife  = 12 * time.Hour
	maxSessions  = 256
	cookieName   = "phase_admin"
	maxForm      = 16 << 10
	wrongTokens  = 10   // of one address at once …
	wrongTokensS = 0.1  // … and a second
	retryToken   = "10" // seconds until another token is compared
)

// Address is the address to listen on: a HOST that is not named is loopback.
func (c Config) Address() string {
	if host, port, err := net.SplitHostPort(c.Addr); err == nil && host == "" {
		return net.JoinHostPort("127.0.0.1", port)
	}
	return c.Addr
}

// loopback reports whether only programs on this computer reach the page.
func (c Config) loopback() bool {
	host, _, _ := net.SplitHostPort(c.Address())
	return isLoopback(host)
}

func isLoopback(host string) bool {
	ip := net.ParseIP(host)
	return strings.EqualFold(host, "localhost") || ip != nil && ip.IsLoopback()
}

// Check refuses a configuration that shows the page to everybody, or that is incomplete. It reads no file. The error
// wraps fs.ErrInvalid.
func (c Config) Check() error {
	_, _, err := net.SplitHostPort(c.Addr)
	switch {
	case c.Addr == "" && (c.Token != "" || c.Cert != "" || c.Key != "" || c.ClientCA != "" || len(c.Mirrors) > 0 || c.Receipts != ""):
		return refusal.Invalid("--admin: not given, so the other --admin flags have no use; name an address such as 127.0.0.1:9080")
	case c.Addr == "":
		return nil
	case err != nil:
		return refusal.Invalid("--admin %.80q: write it as HOST:PORT, or as :PORT for 127.0.0.1", c.Addr)
	case (c.Cert == "") != (c.Key == ""):
		return refusal.Invalid("--admin-cert and --admin-key: name both, or none")
	case c.ClientCA != "" && c.Cert == "":
		return refusal.Invalid("--admin-client-ca: client certificates need HTTPS; name --admin-cert and --admin-key too")
	case !c.loopback() && c.Token == "" && c.ClientCA == "":
		return refusal.Invalid("--admin %s: others reach this address; name --admin-token FILE, or --admin-cert, --admin-key and --admin-client-ca, or use 127.0.0.1", c.Addr)
	}
	for _, m := range c.Mirrors {
		if u, err := url.Parse(m); err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
			return refusal.Invalid("--admin-mirror %.200q: not the URL of a mirror; write it as https://HOST/PATH", hidePassword(m))
		}
	}
	if c.Receipts != "" {
		if err := file.CheckFolder(c.Receipts); err != nil {
			return refusal.New(err, "--admin-receipts %s: %v; name a folder", c.Receipts, file.Pathless(err))
		}
	}
	return nil
}

// hidePassword returns a URL without user and password.
func hidePassword(text string) string {
	u, err := url.Parse(text)
	if err != nil {
		return "(a URL)"
	}
	u.User = nil
	return u.String()
}

// TLS returns the settings of an HTTPS page, nil for plain HTTP.
func (c Config) TLS() (*tls.Config, error) {
	if c.Cert == "" {
		return nil, nil
	}
	cert, err := file.ReadInput(c.Cert, maxPEM)
	if err != nil {
		return nil, fmt.Errorf("--admin-cert: %w", err)
	}
	key, err := file.ReadInput(c.Key, maxPEM)
	if err != nil {
		return nil, fmt.Errorf("--admin-key: %w", err)
	}
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		return nil, refusal.Invalid("--admin-cert %s, --admin-key %s: not a certificate and its key in PEM: %v", c.Cert, c.Key, err)
	}
	out := &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12, NextProtos: []string{"h2", "http/1.1"}}
	if c.ClientCA == "" {
		return out, nil
	}
	cas, err := file.ReadInput(c.ClientCA, maxPEM)
	if err != nil {
		return nil, fmt.Errorf("--admin-client-ca: %w", err)
	}
	out.ClientCAs, out.ClientAuth = x509.NewCertPool(), tls.RequireAndVerifyClientCert
	if !out.ClientCAs.AppendCertsFromPEM(cas) {
		return nil, refusal.Invalid("--admin-client-ca %s: no certificate in PEM in it", c.ClientCA)
	}
	return out, nil
}

// readToken returns the token, nil if there is none.
func (c Config) readToken() ([]byte, error) {
	if c.Token == "" {
		return nil, nil
	}
	data, err := file.ReadInput(c.Token, maxToken)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, refusal.New(err, "--admin-token %s: does not exist; make it with: (umask 077; openssl rand -hex 32 > %s)", c.Token, c.Token)
	}
	if err != nil {
		return nil, fmt.Errorf("--admin-token: %w", err)
	}
	token := bytes.TrimSpace(data)
	if len(token) < minToken || bytes.ContainsAny(token, " \t\r\n") {
		return nil, refusal.Invalid("--admin-token %s: not one word of %d characters or more; make it with: (umask 077; openssl rand -hex 32 > %s)", c.Token, minToken, c.Token)
	}
	return token, nil
}

// A guard decides who may use the page.
type guard struct {
	loopback bool
	token    []byte // nil for none
	certs    bool   // the listener has verified a client certificate
	https    bool
	secret   []byte // of this process, for the tokens of forms
	wrong    *limit.Faults
	now      func() time.Time
	origin   *http.CrossOriginProtection

	mu       sync.Mutex
	sessions map[string]time.Time // when they end
}

func newGuard(c Config, now func() time.Time) (*guard, error) {
	token, err := c.readToken()
	if err != nil {
		return nil, err
	}
	return &guard{
		loopback: c.loopback(), token: token, certs: c.ClientCA != "", https: c.Cert != "", secret: []byte(rand.Text()),
		wrong: limit.NewFaults(wrongTokensS, wrongTokens), now: now, origin: http.NewCrossOriginProtection(), sessions: map[string]time.Time{},
	}, nil
}

// decides reports whether readers are known, so that they may accept and forget keys.
func (g *guard) decides() bool { return g.token != nil || g.certs }

// The reader of a request: who it is, for the token of a form. It is empty on a loopback page, which knows no readers.
type readerKey struct{}

func readerOf(r *http.Request) string {
	who, _ := r.Context().Value(readerKey{}).(string)
	return who
}

// known returns a request with its reader, false if the reader has to log in.
func (g *guard) known(r *http.Request) (*http.Request, bool) {
	var who string
	switch {
	case g.token != nil:
		if who = g.session(r); who == "" && g.bearer(r) {
			who = "bearer"
		}
		if who == "" {
			return r, false
		}
	case g.certs:
		if r.TLS == nil || len(r.TLS.VerifiedChains) == 0 {
			return r, false
		}
		sum := sha256.Sum256(r.TLS.PeerCertificates[0].Raw)
		who = "certificate " + hex.EncodeToString(sum[:])
	}
	return r.WithContext(context.WithValue(r.Context(), readerKey{}, who)), true
}

// session returns the session of a request, "" for none.
func (g *guard) session(r *http.Request) string {
	c, err := r.Cookie(cookieName)
	if err != nil {
		return ""
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if end, ok := g.sessions[c.Value]; !ok || !g.now().Before(end) {
		return ""
	}
	return "session " + c.Value
}

func (g *guard) bearer(r *http.Request) bool {
	scheme, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	return strings.EqualFold(scheme, "Bearer") && g.right(r, token)
}

// locked reports whether so many wrong tokens came from the address of a request that none of it is compared now.
func (g *guard) locked(r *http.Request) bool {
	return g.token != nil && !g.wrong.Allow(limit.ClientKey(r.RemoteAddr))
}

// right compares a token, as often as the address of the request may be wrong.
func (g *guard) right(r *http.Request, token string) bool {
	client := limit.ClientKey(r.RemoteAddr)
	if !g.wrong.Allow(client) {
		return false
	}
	is, want := sha256.Sum256([]byte(token)), sha256.Sum256(g.token)
	if subtle.ConstantTimeCompare(is[:], want[:]) == 1 {
		return true
	}
	g.wrong.Add(client)
	return false
}

// logIn begins a session.
func (g *guard) logIn(w http.ResponseWriter) {
	id := rand.Text()
	g.mu.Lock()
	now := g.now()
	var oldest string
	for other, end := range g.sessions {
		if !now.Before(end) {
			delete(g.sessions, other)
		} else if oldest == "" || end.Before(g.sessions[oldest]) {
			oldest = other
		}
	}
	if len(g.sessions) >= maxSessions {
		delete(g.sessions, oldest)
	}
	g.sessions[id] = now.Add(sessionLife)
	g.mu.Unlock()
	g.setCookie(w, id, int(sessionLife/time.Second))
}

func (g *guard) setCookie(w http.ResponseWriter, value string, age int) {
	http.SetCookie(w, &http.Cookie{
		Name: cookieName, Value: value, Path: "/", MaxAge: age, HttpOnly: true, Secure: g.https, SameSite: http.SameSiteStrictMode,
	})
}

// logOut ends the session of a request.
func (g *guard) logOut(w http.ResponseWriter, r *http.Request) {
	if c, err := r.Cookie(cookieName); err == nil {
		g.mu.Lock()
		delete(g.sessions, c.Value)
		g.mu.Unlock()
	}
	g.setCookie(w, "", -1)
}

// formToken is what a form of this reader has to bring.
func (g *guard) formToken(r *http.Request) string {
	mac := hmac.New(sha256.New, g.secret)
	mac.Write([]byte(readerOf(r)))
	return hex.EncodeToString(mac.Sum(nil))
}

// checkForm refuses a POST that does not come from a form of this page and reader.
func (g *guard) checkForm(r *http.Request) error {
	if err := g.origin.Check(r); err != nil {
		return errors.New("the form came from another page; open this page and use its own form")
	}
	if !hmac.Equal([]byte(r.PostFormValue("form")), []byte(g.formToken(r))) {
		return errors.New("the form is not one of this page, or of an earlier start of the publisher; reload the page and send it again")
	}
	return nil
}

// checkHost refuses a name that resolves to this computer but is none of loopback: a page of another site could
// read this one through it.
func (g *guard) checkHost(r *http.Request) error {
	host := r.Host
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	if host = strings.Trim(host, "[]"); g.loopback && !isLoopback(host) {
		return fmt.Errorf("host %.80q: this page is on a loopback address; open it as localhost or 127.0.0.1, through a tunnel such as ssh -L too", cmp.Or(host, "(none)"))
	}
	return nil
}

// headers are sent with each answer. Scripts and styles come from files of this server alone.
var headers = map[string]string{
	"Content-Security-Policy":      "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self' data:; connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
	"X-Content-Type-Options":       "nosniff",
	"X-Frame-Options":              "DENY",
	"Referrer-Policy":              "same-origin",
	"Cross-Origin-Opener-Policy":   "same-origin",
	"Cross-Origin-Resource-Policy": "same-origin",
	"Permissions-Policy":           "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
	"Cache-Control":                "no-store",
}
