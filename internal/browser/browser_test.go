package browser

import (
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// What a test of a page relies on: faults, requests, keys, colours and scripts are seen as they are.
func TestABrowserShowsWhatAPageDoes(t *testing.T) {
	if testing.Short() {
		return // make test installs Chromium
	}
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Security-Policy", "script-src 'self'")
		switch r.URL.Path {
		case "/script.js":
			w.Header().Set("Content-Type", "text/javascript")
			w.Write([]byte(`document.title = "script " + matchMedia("(prefers-color-scheme: dark)").matches; console.error("a fault"); fetch("http://other.example/")`))
		case "/":
			w.Header().Set("Content-Type", "text/html")
			w.Write([]byte(`<title>` + r.Header.Get("X-Test") + `</title><script>document.title = "inline"</script><script src="/script.js"></script><a href="/next">next</a>`))
		default:
			w.Header().Set("Content-Type", "text/html")
			w.Write([]byte(`<title>next</title>`))
		}
	}))
	defer web.Close()
	ctx := t.Context()
	b, err := Start(ctx)
	check(t, err)
	dir := b.dir
	title := func(p *Page) (s string) {
		t.Helper()
		check(t, p.Eval(ctx, "document.title", &s))
		return s
	}
	p, err := b.Open(ctx, web.URL, Options{Dark: true})
	check(t, err)
	if got := title(p); got != "script true" {
		t.Errorf("title %q", got)
	}
	for _, want := range []string{"a fault", "Content Security Policy"} {
		if found := strings.Join(p.Problems(), "\n"); !strings.Contains(found, want) {
			t.Errorf("no %q in:\n%s", want, found)
		}
	}
	if !slices.Contains(p.Requests(), "http://other.example/") || !slices.Contains(p.Requests(), web.URL+"/script.js") {
		t.Errorf("requests %q", p.Requests())
	}
	loaded := p.Loaded()
	check(t, p.Press(ctx, "Tab"))
	check(t, p.Press(ctx, "Enter"))
	check(t, p.Wait(ctx, loaded))
	if got := title(p); got != "next" {
		t.Errorf("title %q", got)
	}
	if err := p.Eval(ctx, "nothing.at.all", nil); err == nil || !strings.Contains(err.Error(), "nothing is not defined") {
		t.Errorf("got %v", err)
	}
	check(t, p.Close(ctx))
	p, err = b.Open(ctx, web.URL, Options{NoScript: true, Header: map[string]string{"X-Test": "plain"}})
	check(t, err)
	if got := title(p); got != "plain" {
		t.Errorf("title %q", got)
	}
	if err := p.Go(ctx, "http://other.example/"); err == nil {
		t.Error("it has found another host")
	}
	check(t, b.Close())
	if _, err := os.Stat(dir); !os.IsNotExist(err) {
		t.Errorf("the profile is still there: %v", err)
	}
	shot := filepath.Join(t.TempDir(), "page.png")
	check(t, Shot(ctx, web.URL, shot, Options{Width: 320, Height: 200}))
	if data, err := os.ReadFile(shot); err != nil || !strings.HasPrefix(string(data), "\x89PNG") {
		t.Errorf("no picture: %v", err)
	}
}
