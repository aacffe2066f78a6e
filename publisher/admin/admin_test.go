package admin

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/phaseboot/phaseboot/publisher/pubtest"
	"github.com/phaseboot/phaseboot/publisher/reports"
)

const token = "0123456789abcdef0123456789abcdef"

// tokenFile makes a file with the token.
func (s *site) tokenFile() string {
	s.Write("token", []byte(token+"\n"))
	return s.Path("token")
}

func TestAPageForOthersNeedsATokenOrCertificates(t *testing.T) {
	dir := t.TempDir()
	for _, tt := range []struct {
		name string
		c    Config
		want string // part of the refusal, "" for none
	}{
		{"none", Config{}, ""},
		{"loopback", Config{Addr: "127.0.0.1:9080"}, ""},
		{"loopback, IPv6", Config{Addr: "[::1]:9080"}, ""},
		{"localhost", Config{Addr: "localhost:9080"}, ""},
		{"no host is loopback", Config{Addr: ":9080"}, ""},
		{"all addresses", Config{Addr: "0.0.0.0:9080"}, "name --admin-token FILE, or --admin-cert, --admin-key and --admin-client-ca, or use 127.0.0.1"},
		{"all addresses, IPv6", Config{Addr: "[::]:9080"}, "others reach this address"},
		{"a name", Config{Addr: "publisher.example:9080"}, "others reach this address"},
		{"HTTPS does not keep others out", Config{Addr: "192.0.2.1:9080", Cert: "c", Key: "k"}, "others reach this address"},
		{"a token", Config{Addr: "192.0.2.1:9080", Token: "t"}, ""},
		{"client certificates", Config{Addr: "192.0.2.1:9080", Cert: "c", Key: "k", ClientCA: "ca"}, ""},
		{"client certificates without HTTPS", Config{Addr: "192.0.2.1:9080", ClientCA: "ca"}, "name --admin-cert and --admin-key too"},
		{"half of HTTPS", Config{Addr: ":9080", Cert: "c"}, "name both"},
		{"no port", Config{Addr: "127.0.0.1"}, "write it as HOST:PORT"},
		{"flags without a page", Config{Token: "t"}, "--admin: not given"},
		{"a folder as mirror", Config{Addr: ":9080", Mirrors: []string{"/srv/mirror"}}, "not the URL of a mirror"},
		{"a mirror with a password", Config{Addr: ":9080", Mirrors: []string{"ftp://user:secret@example.org"}}, `"ftp://example.org"`},
		{"no folder of receipts", Config{Addr: ":9080", Receipts: dir + "/missing"}, "name a folder"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			err := tt.c.Check()
			if tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want) || strings.ContainsAny(err.Error(), "\n") || strings.Contains(err.Error(), "secret")) {
				t.Errorf("got %v, want %q", err, tt.want)
			}
		})
	}
	if got := (Config{Addr: ":9080"}).Address(); got != "127.0.0.1:9080" {
		t.Errorf("listens on %s", got)
	}
}

func TestABadTokenFileIsRefused(t *testing.T) {
	s := newSite(t)
	for name, tt := range map[string]struct {
		content, want string
		missing       bool
	}{
		"short":   {"secret", "not one word of 16 characters", false},
		"words":   {"one two three four five", "not one word", false},
		"empty":   {"", "openssl rand -hex 32", false},
		"missing": {"", "does not exist; make it with", true},
	} {
		path := s.Path("token-" + name)
		if !tt.missing {
			pubtest.Check(t, os.WriteFile(path, []byte(tt.content), 0o600))
		}
		if _, err := New(Options{Config: Config{Addr: "0.0.0.0:0", Token: path}}); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := New(Options{Config: Config{Addr: "0.0.0.0:0"}}); !errors.Is(err, fs.ErrInvalid) {
		t.Errorf("got %v", err)
	}
}

// inline is what the policy forbids, and what would go to another host.
var inline = regexp.MustCompile(`(?i)<style|<[^>]* style=|<[^>]* on[a-z]+=|<script>|<script [^>]*>[^<]|javascript:|(src|href|action)="(https?:)?//`)

func TestEveryViewIsShownSafely(t *testing.T) {
	s := newSite(t)
	fleet := s.fleet()
	c := s.receipts()
	c.Mirrors = []string{s.mirror().URL}
	_, web := s.page(c)
	for _, path := range paths(fleet) {
		resp, body := get(t, web.URL+path)
		want := map[string]int{"/login": 401, "/no/such/view": 404}[path]
		if want == 0 {
			want = 200
		}
		if resp.StatusCode != want || !strings.Contains(resp.Header.Get("Content-Type"), "text/html; charset=utf-8") {
			t.Errorf("%s: %s, %s", path, resp.Status, body)
		}
		for name, value := range headers {
			if resp.Header.Get(name) != value {
				t.Errorf("%s: %s is %q", path, name, resp.Header.Get(name))
			}
		}
		if found := inline.FindString(body); found != "" {
			t.Errorf("%s has %q", path, found)
		}
		if strings.Contains(body, "<img") || strings.Contains(body, "<b>") || strings.ContainsAny(body, "\u202e\u2066\u200f\u009b\x1b\x00") {
			t.Errorf("%s shows a hostile text as it is:\n%s", path, body)
		}
		if strings.Contains(body, "no value") || strings.Contains(body, "ZgotmplZ") || strings.Contains(body, "%!") {
			t.Errorf("%s has a fault of its template", path)
		}
	}
	for path, words := range map[string][]string{
		"/": {
			"the store is &lt;b&gt;damaged&lt;/b&gt;?", `<bdi>v1</bdi>`, "stable", "edge", "every machine", "1 of 1: <code", "timestamp.json", "ends soon", "phase-publish serve, or add, signs it again",
			`<a href="/machines?state=accepted">3</a>`, `<a href="/machines?result=failed&amp;state=accepted">1</a>`, `<a href="/machines?release=v1">`,
		},
		"/heads":                         {"<code>baf", "version 1,", s.record.Name, "not asked yet"},
		"/machines":                      {"kiosk-1", "שלום", "no source is reachable", "8.2 s", ">unverified<", `aria-sort="descending"`, "&lt;script&gt;alert(1)"},
		"/machines?result=failed&q=kios": {"kiosk-2"},
		"/machines?mode=edge":            {"שלום"},
		"/machines?state=unverified":     {">unverified<"},
		"/traffic":                       {"83 %", "2.9 MiB", "http", "stream", "5.0 MiB"},
		"/receipts":                      {"hello.wasm", "it was altered after machine", "exit 0", "not known", "abababababababab…"},
		"/machines/" + fleet[1].name():   {fleet[1].name(), "192.0.2.7:4000", "no source is reachable", "14 MiB"},
		fmt.Sprintf("/machines/%s/boots/%032x", fleet[1].name(), 2): {
			"network", "eth0 192.0.2.7/24", "6.1 s", "<rect class=\"step\" x=\"0\"", "rect class=\"failed\"", "rect class=\"target\"", "press a key", "12D3KooWNeighbour", "late answer", "2 of 3",
			"7.9 s in all",
		},
	} {
		_, body := get(t, web.URL+path)
		for _, word := range words {
			if !strings.Contains(body, word) {
				t.Errorf("%s has no %q:\n%s", path, word, body)
			}
		}
	}
	for path, word := range map[string]string{"/machines?result=failed&q=kios": "kiosk-1", "/machines?mode=edge": "kiosk", "/machines?state=accepted": ">unverified<", "/machines?release=v0": "kiosk"} {
		if _, body := get(t, web.URL+path); strings.Contains(body[strings.Index(body, `id="live"`):], word) {
			t.Errorf("%s has %q", path, word)
		}
	}
}

func TestAPageWithoutReportsReceiptsAndMirrors(t *testing.T) {
	s := newSite(t)
	s.reports = nil
	_, web := s.page(Config{})
	for path, want := range map[string]string{
		"/": "takes no boot reports", "/machines": "takes no boot reports", "/traffic": "takes no boot reports", "/receipts": "--admin-receipts DIR", "/heads": "--admin-mirror URL",
	} {
		if resp, body := get(t, web.URL+path); resp.StatusCode != 200 || !strings.Contains(body, want) {
			t.Errorf("%s: %s, %s", path, resp.Status, body)
		}
	}
	for _, path := range []string{"/machines/abc", "/machines/abc/boots/def"} {
		if resp, _ := get(t, web.URL+path); resp.StatusCode != 404 {
			t.Errorf("%s: %s", path, resp.Status)
		}
	}
}

func TestUnknownThingsAreNotFound(t *testing.T) {
	s := newSite(t)
	fleet := s.fleet()
	_, web := s.page(Config{})
	for path, want := range map[string]int{
		"/machines/" + strings.Repeat("0", 64): 404, "/machines/x%2f..": 404, "/machines/" + fleet[0].name() + "/boots/00": 404, "/machines?after=00": 404, "/assets/": 404, "/assets/../admin.go": 404,
		"/machines?sort=id": 200, "/machines?q=" + strings.Repeat("x", 1000): 200, "/assets/page.css": 200, "/assets/page.js": 200, "/assets/icon.svg": 200,
	} {
		if resp, _ := get(t, web.URL+path); resp.StatusCode != want && resp.StatusCode/100 != 3 {
			t.Errorf("%s: %s, want %d", path, resp.Status, want)
		}
	}
	for _, method := range []string{http.MethodPut, http.MethodDelete, http.MethodPost, "TRACE"} {
		for _, path := range []string{"/", "/machines", "/events", "/assets/page.js"} {
			if resp, _ := do(t, http.DefaultClient, method, web.URL+path, ""); resp.StatusCode != http.StatusMethodNotAllowed || resp.Header.Get("Allow") == "" {
				t.Errorf("%s %s: %s", method, path, resp.Status)
			}
		}
	}
	if resp, body := do(t, http.DefaultClient, http.MethodHead, web.URL+"/machines", ""); resp.StatusCode != 200 || body != "" {
		t.Errorf("HEAD: %s", resp.Status)
	}
}

// A page of another site reaches a loopback address through a name that it makes resolve to it.
func TestALoopbackPageHasNoOtherName(t *testing.T) {
	s := newSite(t)
	_, web := s.page(Config{})
	for host, want := range map[string]int{
		"localhost": 200, "localhost:9080": 200, "127.0.0.1:1": 200, "127.8.8.8": 200, "[::1]:9080": 200, "LOCALHOST": 200,
		"attacker.example": 421, "attacker.example:9080": 421, "localhost.attacker.example": 421, "127.0.0.1.attacker.example": 421, "192.0.2.1": 421, "0.0.0.0": 421,
	} {
		if resp, _ := get(t, web.URL+"/", "Host", host); resp.StatusCode != want {
			t.Errorf("%s: %s, want %d", host, resp.Status, want)
		}
	}
}

// Anybody can send a report with the name of a machine and an age key of their own. The page offers it for secrets only when the key of
// the machine is accepted.
func TestTheAgeKeyOfAnUnverifiedMachineIsNotShown(t *testing.T) {
	s := newSite(t)
	fleet := s.fleet()
	_, web := s.page(Config{})
	for i, shown := range map[int]bool{0: true, 3: false} {
		if _, body := get(t, web.URL+"/machines/"+fleet[i].name()); strings.Contains(body, "age1recipient") != shown || !strings.Contains(body, fleet[i].name()) {
			t.Errorf("machine %d: shown is %v, want %v", i, !shown, shown)
		}
	}
}

func TestReadersNeedTheToken(t *testing.T) {
	s := newSite(t)
	fleet := s.fleet()
	_, web := s.page(Config{Addr: "0.0.0.0:0", Token: s.tokenFile()})
	for _, path := range append(paths(fleet), "/events") {
		if resp, body := get(t, web.URL+path); resp.StatusCode != 401 || !strings.HasPrefix(resp.Header.Get("WWW-Authenticate"), "Bearer") || strings.Contains(body, "kiosk") || strings.Contains(body, "/machines/") && path == "/" {
			t.Errorf("%s: %s", path, resp.Status)
		}
	}
	if resp, _ := do(t, http.DefaultClient, http.MethodPost, web.URL+"/machines/"+fleet[3].name()+"/accept", "form=x"); resp.StatusCode != 401 {
		t.Errorf("accept: %s", resp.Status)
	}
	if resp, body := get(t, web.URL+"/machines", "Authorization", "Bearer "+token); resp.StatusCode != 200 || !strings.Contains(body, "kiosk-1") {
		t.Errorf("bearer: %s", resp.Status)
	}
	for _, wrong := range []string{"Bearer " + token[1:], "Basic " + token, "Bearer", "Bearer " + token + "0"} {
		if resp, _ := get(t, web.URL+"/machines", "Authorization", wrong); resp.StatusCode != 401 {
			t.Errorf("%s: %s", wrong, resp.Status)
		}
	}
	resp, body := do(t, http.DefaultClient, http.MethodPost, web.URL+"/login", "token=wrong&next=/traffic")
	if resp.StatusCode != 401 || !strings.Contains(body, "not the token") || !strings.Contains(body, `value="/traffic"`) || len(resp.Cookies()) > 0 {
		t.Errorf("wrong token: %s", resp.Status)
	}
	resp, _ = do(t, http.DefaultClient, http.MethodPost, web.URL+"/login", "token="+token+"&next=/machines?mode=local")
	if resp.StatusCode != 303 || resp.Header.Get("Location") != "/machines?mode=local" || len(resp.Cookies()) != 1 {
		t.Fatalf("login: %s, %v", resp.Status, resp.Header)
	}
	cookie := resp.Cookies()[0]
	if !cookie.HttpOnly || cookie.SameSite != http.SameSiteStrictMode || cookie.Secure || cookie.Path != "/" || strings.Contains(cookie.Value, token) {
		t.Errorf("cookie %+v", cookie)
	}
	session := cookie.Name + "=" + cookie.Value
	_, body = get(t, web.URL+"/machines", "Cookie", session)
	if !strings.Contains(body, "kiosk-1") || !strings.Contains(body, "Log out") {
		t.Error("the session shows no machines, or no way to end it")
	}
	form := regexp.MustCompile(`name="form" value="([0-9a-f]+)"`).FindStringSubmatch(body)[1]
	if resp, _ := do(t, http.DefaultClient, http.MethodPost, web.URL+"/logout", "form="+form, "Cookie", session); resp.StatusCode != 303 {
		t.Errorf("logout: %s", resp.Status)
	}
	if resp, _ := get(t, web.URL+"/machines", "Cookie", session); resp.StatusCode != 401 {
		t.Errorf("after the logout: %s", resp.Status)
	}
	resp, _ = do(t, http.DefaultClient, http.MethodPost, web.URL+"/login", "token="+token)
	session = cookieName + "=" + resp.Cookies()[0].Value
	s.setNow(s.now().Add(sessionLife))
	if resp, _ := get(t, web.URL+"/machines", "Cookie", session); resp.StatusCode != 401 {
		t.Errorf("after its life: %s", resp.Status)
	}
}

func TestWrongTokensAreBounded(t *testing.T) {
	s := newSite(t)
	_, web := s.page(Config{Addr: "0.0.0.0:0", Token: s.tokenFile()})
	for range wrongTokens + 5 {
		do(t, http.DefaultClient, http.MethodPost, web.URL+"/login", "token=wrong")
	}
	resp, body := do(t, http.DefaultClient, http.MethodPost, web.URL+"/login", "token="+token)
	if resp.StatusCode != 429 || resp.Header.Get("Retry-After") != "10" || !strings.Contains(body, "was not compared") || len(resp.Cookies()) > 0 {
		t.Errorf("the right token after many wrong ones: %s", resp.Status)
	}
	if resp, _ := get(t, web.URL+"/", "Authorization", "Bearer "+token); resp.StatusCode != 429 || resp.Header.Get("Retry-After") != "10" {
		t.Errorf("as a header: %s", resp.Status)
	}
	if resp, _ := get(t, web.URL+"/"); resp.StatusCode != 401 {
		t.Errorf("without a token: %s", resp.Status)
	}
}

func TestANextPageIsOfThisServer(t *testing.T) {
	for next, want := range map[string]string{
		"/machines?sort=name": "/machines?sort=name", "": "/", "https://attacker.example/": "/", "//attacker.example/": "/", `/\attacker.example`: "/", "javascript:alert(1)": "/", "machines": "/", "/%2f/attacker": "/",
	} {
		if got := ownPath(next); got != want {
			t.Errorf("%q becomes %q, want %q", next, got, want)
		}
	}
}

// Forms decide only for a reader that is known, and come from this page.
func TestOnlyTheFormsOfThePageDecide(t *testing.T) {
	s := newSite(t)
	fleet := s.fleet()
	key := fleet[3].name()
	accepted := func() bool {
		m, _, err := s.reports.Get(t.Context(), key)
		pubtest.Check(t, err)
		return m.Accepted
	}
	_, open := s.page(Config{})
	_, body := get(t, open.URL+"/machines/"+key)
	if strings.Contains(body, "<form method=\"post\"") {
		t.Error("a page that knows no readers has a form")
	}
	if resp, body := do(t, http.DefaultClient, http.MethodPost, open.URL+"/machines/"+key+"/accept", "form="); resp.StatusCode != 403 || !strings.Contains(body, "phase-publish machines") || accepted() {
		t.Errorf("without readers: %s", resp.Status)
	}
	_, web := s.page(Config{Token: s.tokenFile()})
	resp, _ := do(t, http.DefaultClient, http.MethodPost, web.URL+"/login", "token="+token)
	session := cookieName + "=" + resp.Cookies()[0].Value
	_, body = get(t, web.URL+"/machines/"+key, "Cookie", session)
	form := regexp.MustCompile(`accept"><input type="hidden" name="form" value="([0-9a-f]+)"`).FindStringSubmatch(body)[1]
	other, _ := do(t, http.DefaultClient, http.MethodPost, web.URL+"/login", "token="+token)
	for name, tt := range map[string]struct{ body, session, site, origin string }{
		"no token of the form":       {"x=1", session, "same-origin", ""},
		"a wrong one":                {"form=" + form[1:] + "0", session, "same-origin", ""},
		"one of another session":     {"form=" + form, cookieName + "=" + other.Cookies()[0].Value, "same-origin", ""},
		"from another site":          {"form=" + form, session, "cross-site", ""},
		"from the same site":         {"form=" + form, session, "same-site", ""},
		"an old browser, other site": {"form=" + form, session, "", "http://attacker.example"},
	} {
		header := []string{"Cookie", tt.session, "Sec-Fetch-Site", tt.site}
		if tt.origin != "" {
			header = []string{"Cookie", tt.session, "Origin", tt.origin}
		}
		if resp, _ := do(t, http.DefaultClient, http.MethodPost, web.URL+"/machines/"+key+"/accept", tt.body, header...); resp.StatusCode != 403 || accepted() {
			t.Errorf("%s: %s", name, resp.Status)
		}
	}
	if resp, _ := do(t, http.DefaultClient, http.MethodPost, web.URL+"/login", "token="+token, "Origin", "http://attacker.example"); resp.StatusCode != 403 {
		t.Errorf("login by another site: %s", resp.Status)
	}
	if resp, _ := do(t, http.DefaultClient, http.MethodPost, web.URL+"/machines/"+key+"/accept", "form="+form, "Cookie", session, "Sec-Fetch-Site", "same-origin"); resp.StatusCode != 303 || !accepted() {
		t.Errorf("accept: %s", resp.Status)
	}
	if resp, _ := do(t, http.DefaultClient, http.MethodPost, web.URL+"/machines/"+key+"/forget", "form="+form, "Cookie", session, "Origin", web.URL); resp.StatusCode != 303 || resp.Header.Get("Location") != "/machines" {
		t.Errorf("forget: %s", resp.Status)
	}
	if _, _, err := s.reports.Get(t.Context(), key); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("not forgotten: %v", err)
	}
	if resp, _ := do(t, http.DefaultClient, http.MethodPost, web.URL+"/machines/"+key+"/accept", "form="+form, "Cookie", session, "Sec-Fetch-Site", "same-origin"); resp.StatusCode != 404 {
		t.Errorf("an unknown key: %s", resp.Status)
	}
}

func TestReadersNeedACertificateOfTheCA(t *testing.T) {
	s := newSite(t)
	fleet := s.fleet()
	ca := newCA(t)
	s.Write("ca.pem", ca.pem)
	cert, key := ca.issue(t, "server", "127.0.0.1")
	s.Write("cert.pem", cert)
	s.Write("key.pem", key)
	c := Config{Addr: "0.0.0.0:0", Cert: s.Path("cert.pem"), Key: s.Path("key.pem"), ClientCA: s.Path("ca.pem")}
	_, web := s.page(c)
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(ca.pem)
	with := func(from authority) *http.Client {
		pair, err := tls.X509KeyPair(from.issue(t, "operator", ""))
		pubtest.Check(t, err)
		client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool, Certificates: []tls.Certificate{pair}}}}
		t.Cleanup(client.CloseIdleConnections)
		return client
	}
	none := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}}}
	for name, client := range map[string]*http.Client{"no certificate": none, "one of another CA": with(newCA(t))} {
		if resp, err := client.Get(web.URL + "/"); err == nil {
			resp.Body.Close()
			t.Errorf("%s: %s", name, resp.Status)
		}
	}
	operator := with(ca)
	_, body := do(t, operator, http.MethodGet, web.URL+"/machines/"+fleet[3].name(), "")
	form := regexp.MustCompile(`accept"><input type="hidden" name="form" value="([0-9a-f]+)"`).FindStringSubmatch(body)
	if form == nil {
		t.Fatalf("no form:\n%s", body)
	}
	if resp, _ := do(t, operator, http.MethodPost, web.URL+"/machines/"+fleet[3].name()+"/accept", "form="+form[1], "Sec-Fetch-Site", "same-origin"); resp.StatusCode != 303 {
		t.Errorf("accept: %s", resp.Status)
	}
	s.Write("ca.pem", []byte("nothing"))
	if _, err := New(Options{Config: c}); err == nil || !strings.Contains(err.Error(), "no certificate in PEM") {
		t.Errorf("got %v", err)
	}
	s.Write("key.pem", []byte("nothing"))
	if _, err := New(Options{Config: c}); err == nil || !strings.Contains(err.Error(), "not a certificate and its key") {
		t.Errorf("got %v", err)
	}
}

// The links of a list lead to each machine once.
func TestTheListHasPages(t *testing.T) {
	s := newSite(t)
	const n = pageSize*2 + 7
	for i := range n {
		s.report(machineSpec{key: pubtest.NewKey(t), host: fmt.Sprintf("host-%03d", i), mode: "local", release: "v1", as: "ok", boot: 1, at: s.now(), duration: i * 100})
	}
	_, web := s.page(Config{})
	row, next := regexp.MustCompile(`<th scope="row"><a href="[^"]+"><bdi>(host-\d+)<`), regexp.MustCompile(`<a href="([^"]+)" rel="next">`)
	for _, start := range []string{"/machines", "/machines?sort=duration&dir=up&mode=local", "/machines?sort=name", "/machines?q=host&sort=tries"} {
		seen := map[string]bool{}
		pages := 0
		for path := start; path != ""; pages++ {
			_, body := get(t, web.URL+path)
			rows := row.FindAllStringSubmatch(body, -1)
			for _, r := range rows {
				if seen[r[1]] {
					t.Errorf("%s: %s twice", start, r[1])
				}
				seen[r[1]] = true
			}
			if start == "/machines?sort=name" && rows[0][1] != fmt.Sprintf("host-%03d", pages*pageSize) {
				t.Errorf("page %d begins with %s", pages, rows[0][1])
			}
			if path = ""; next.MatchString(body) {
				path = strings.ReplaceAll(next.FindStringSubmatch(body)[1], "&amp;", "&")
			}
			if pages > 0 && !strings.Contains(body, "First page") {
				t.Errorf("%s: page %d has no way back", start, pages)
			}
		}
		if len(seen) != n || pages != 3 {
			t.Errorf("%s: %d machines on %d pages", start, len(seen), pages)
		}
	}
	_, body := get(t, web.URL+"/machines?sort=name&mode=local&x="+url.QueryEscape("<b>"))
	if !strings.Contains(body, `aria-sort="ascending"><a href="/machines?dir=down&amp;mode=local&amp;sort=name"`) || strings.Contains(body, "&amp;x=") {
		t.Error("the link of a column does not turn its order, or keeps what the page does not know")
	}
}

func TestMirrorsAreCompared(t *testing.T) {
	s := newSite(t)
	behind, same := s.mirror().URL, ""
	s.Next(2, "v2")
	same = s.mirror().URL
	foreign := newSite(t)
	p, web := s.page(Config{Mirrors: []string{same, behind, "http://user:secret@127.0.0.1:1/mirror", foreign.mirror().URL}})
	ctx := t.Context()
	state, err := s.state(ctx)
	pubtest.Check(t, err)
	for i, client := range p.mirrors.clients {
		p.mirrors.set(i, p.mirrors.ask(ctx, client, state, nil))
	}
	_, body := get(t, web.URL+"/heads")
	for _, word := range []string{`<span class="ok">the same head</span>`, "1 behind: export to it again", "http://127.0.0.1:1/mirror", "connection refused", "404 Not Found"} {
		if !strings.Contains(body, word) {
			t.Errorf("no %q in:\n%s", word, body)
		}
	}
	if strings.Contains(body, "secret") || strings.Count(body, "the same head") != 1 {
		t.Errorf("a password is shown, or another repository is the same head:\n%s", body)
	}
}

// An open page learns of a new report, and of a new head.
func TestAChangeIsAnEvent(t *testing.T) {
	s := newSite(t)
	p, web := s.page(Config{})
	resp, err := http.Get(web.URL + "/events")
	pubtest.Check(t, err)
	defer resp.Body.Close()
	lines := make(chan string, 100)
	go func() {
		defer close(lines)
		for b := bufio.NewScanner(resp.Body); b.Scan(); {
			lines <- b.Text()
		}
	}()
	wait := func(want string) {
		t.Helper()
		for end := time.After(pubtest.Patience); ; {
			select {
			case line, ok := <-lines:
				if line == want {
					return
				}
				if !ok {
					t.Fatalf("ended before %q", want)
				}
			case <-end:
				t.Fatalf("no %q", want)
			}
		}
	}
	wait("retry: 5000")
	if got := resp.Header.Get("Content-Type"); got != "text/event-stream" {
		t.Errorf("type %s", got)
	}
	s.report(machineSpec{key: pubtest.NewKey(t), host: "new", as: "ok", boot: 1, at: s.now()})
	wait("event: change")
	p.mirrors.changed <- struct{}{}
	wait("event: change")
	for range maxFollowers {
		p.events.enter()
	}
	if resp, _ := get(t, web.URL+"/events"); resp.StatusCode != 503 || resp.Header.Get("Retry-After") == "" {
		t.Errorf("one more: %s", resp.Status)
	}
}

// Over HTTPS too an open page gets events, and does not keep the publisher from stopping.
func TestServeSendsEventsOverHTTP2AndStops(t *testing.T) {
	s := newSite(t)
	ca := newCA(t)
	cert, key := ca.issue(t, "server", "127.0.0.1")
	s.Write("cert.pem", cert)
	s.Write("key.pem", key)
	mirror := s.mirror().URL
	p, err := New(Options{
		Config: Config{Addr: ":0", Cert: s.Path("cert.pem"), Key: s.Path("key.pem"), Mirrors: []string{mirror}},
		State:  s.state, Reports: s.reports, Log: pubtest.VerboseLog(t),
	})
	pubtest.Check(t, err)
	l, err := net.Listen("tcp", p.Address())
	pubtest.Check(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- p.Serve(ctx, l) }()
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(ca.pem)
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}, ForceAttemptHTTP2: true}}
	resp, err := client.Get(p.Origins(l)[0] + "/events")
	pubtest.Check(t, err)
	defer resp.Body.Close()
	if resp.ProtoMajor != 2 || !slices.Equal(p.Origins(l), []string{"https://" + l.Addr().String()}) {
		t.Errorf("%s at %s", resp.Proto, p.Origins(l))
	}
	lines := bufio.NewScanner(resp.Body)
	for lines.Scan() && lines.Text() != "event: change" { // a mirror has been asked
	}
	if lines.Err() != nil {
		t.Fatal(lines.Err())
	}
	_, body := do(t, client, http.MethodGet, p.Origins(l)[0]+"/heads", "")
	if !strings.Contains(body, "the same head") || !strings.Contains(body, mirror) {
		t.Errorf("the mirror is not compared:\n%s", body)
	}
	cancel()
	select {
	case err := <-done:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(pubtest.Patience):
		t.Error("does not stop")
	}
}

// Sixty open pages that read a view again cost the publisher one reading.
func TestAValueIsReadOnceForManyPages(t *testing.T) {
	var v shared[int]
	now, reads := time.Now(), 0
	get := func(want int) {
		t.Helper()
		if got, err := v.get(t.Context(), now, func(context.Context) (int, error) { reads++; return reads, nil }); got != want || err != nil {
			t.Errorf("got %d, %v, want %d", got, err, want)
		}
	}
	get(1)
	get(1)
	now = now.Add(sharedAge)
	get(2)
	now = now.Add(-time.Hour) // the clock was set back
	get(3)
	v.forget()
	get(4)
	now = now.Add(sharedAge)
	if _, err := v.get(t.Context(), now, func(context.Context) (int, error) { return 0, fs.ErrInvalid }); !errors.Is(err, fs.ErrInvalid) {
		t.Errorf("got %v", err)
	}
	get(5)
}

// listened serves a page as a daemon does. Its end is what Serve returns.
func listened(t *testing.T, p *Page) (l net.Listener, stop context.CancelFunc, end chan error) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	pubtest.Check(t, err)
	ctx, stop := context.WithCancel(t.Context())
	end = make(chan error, 1)
	go func() { end <- p.Serve(ctx, l) }()
	return l, stop, end
}

// The stream of events outlives the deadline of a write while nothing changes, over HTTP/1.1 and HTTP/2.
func TestTheStreamOfEventsStaysOpen(t *testing.T) {
	s := newSite(t)
	ca := newCA(t)
	cert, key := ca.issue(t, "server", "127.0.0.1")
	s.Write("cert.pem", cert)
	s.Write("key.pem", key)
	for _, major := range []int{1, 2} {
		p, _ := s.page(Config{Cert: s.Path("cert.pem"), Key: s.Path("key.pem")})
		p.events.timeout = 100 * time.Millisecond
		l, stop, end := listened(t, p)
		pool := x509.NewCertPool()
		pool.AppendCertsFromPEM(ca.pem)
		client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}, ForceAttemptHTTP2: major == 2}}
		resp, err := client.Get("https://" + l.Addr().String() + "/events")
		pubtest.Check(t, err)
		if resp.ProtoMajor != major {
			t.Fatalf("%s", resp.Proto)
		}
		time.AfterFunc(5*p.events.timeout, p.events.notify)
		seen := false
		for b := bufio.NewScanner(resp.Body); !seen && b.Scan(); {
			seen = b.Text() == "event: change"
		}
		if !seen {
			t.Errorf("%s: the stream has ended before the change", resp.Proto)
		}
		resp.Body.Close()
		client.CloseIdleConnections()
		stop()
		pubtest.Check(t, <-end)
	}
}

// An open page learns that a problem has begun, and that it has ended.
func TestAProblemIsAnEvent(t *testing.T) {
	s := newSite(t)
	var problem, read atomic.Bool
	p, err := New(Options{Config: Config{Addr: "127.0.0.1:0"}, Now: time.Now, State: func(context.Context) (State, error) {
		defer read.Store(true)
		if problem.Load() {
			return State{Problems: []string{"the store is damaged"}}, nil
		}
		return State{}, nil
	}})
	pubtest.Check(t, err)
	p.events.pace = 100 * time.Millisecond
	s.serve(p)
	until(t, "the problems are known", read.Load)
	for i := range 2 {
		changed, number := p.events.current()
		if number != i {
			t.Errorf("%d events, want %d", number, i)
		}
		problem.Store(i == 0)
		select {
		case <-changed:
		case <-time.After(pubtest.Patience):
			t.Fatalf("no event of change %d", i)
		}
	}
}

// A page whose listener fails ends with its error at once.
func TestAPageThatCannotListenEnds(t *testing.T) {
	s := newSite(t)
	p, _ := s.page(Config{Mirrors: []string{"http://127.0.0.1:1"}})
	l, stop, end := listened(t, p)
	defer stop()
	pubtest.Check(t, l.Close())
	select {
	case err := <-end:
		if !errors.Is(err, net.ErrClosed) {
			t.Errorf("got %v", err)
		}
	case <-time.After(pubtest.Patience):
		stop()
		t.Errorf("it serves on: %v", <-end)
	}
}

func TestSessionsAreBounded(t *testing.T) {
	g := &guard{now: time.Now, sessions: map[string]time.Time{}}
	for range maxSessions + 10 {
		g.logIn(nopWriter{})
	}
	if len(g.sessions) > maxSessions {
		t.Errorf("%d sessions", len(g.sessions))
	}
}

type nopWriter struct{}

func (nopWriter) Header() http.Header         { return http.Header{} }
func (nopWriter) Write(p []byte) (int, error) { return len(p), nil }
func (nopWriter) WriteHeader(int)             {}

// A page must not wait for a list of all machines: publisher/reports tests that each page reads an index.
func TestEachColumnThatSortsHasAnOrder(t *testing.T) {
	orders := map[reports.Order]bool{}
	for _, c := range columns {
		if c.name != "" {
			orders[c.order] = true
		}
	}
	for _, o := range reports.Orders() {
		if !orders[o] {
			t.Errorf("no column sorts by %q", o)
		}
	}
}
