package publisher

import (
	"context"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/phaseboot/phaseboot/publisher/admin"
)

// A daemon shows itself: what it serves, what it has sent, and what is wrong.
func TestTheAdminPageShowsTheDaemon(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.Add(w.Sign(1, "v1", w.Release))
	opts := w.serveOptions()
	opts.DHT, opts.Admin = DHTOff, admin.Config{Addr: ":0"}
	r, _ := w.serve(opts)
	if len(r.Admin) != 1 || !strings.HasPrefix(r.Admin[0], "http://127.0.0.1:") {
		t.Fatalf("admin page at %v", r.Admin)
	}
	shows := func(path string, words ...string) {
		t.Helper()
		eventually(t, path+" with "+strings.Join(words, ", "), func() bool {
			status, body := get(t, r.Admin[0]+path)
			for _, word := range words {
				if status != http.StatusOK || !strings.Contains(body, word) {
					return false
				}
			}
			return true
		})
	}
	shows("/", "<bdi>v1</bdi>", r.Listen[0][strings.LastIndex(r.Listen[0], "/")+1:], "No problem: machines accept what is published until", ">good<")
	shows("/heads", r.Pointer, r.IPNS, "version 1,")
	get(t, r.HTTP[0]+"/ipfs/"+r.Pointer+"?format=raw")
	shows("/traffic", `<th scope="row">http</th><td>block</td>`)
	shows("/machines", "0 verified machines")
	w.Next(2, "v2")
	shows("/", "<bdi>v2</bdi>")
	w.Write("repo/2.targets.json", []byte("{"))
	w.touch()
	shows("/", `id="problems"`)
}

func TestThePageComparesTheMirrorsOfTheRootToo(t *testing.T) {
	got := listedMirrors([]string{"https://a.example", "https://b.example"}, []string{"https://b.example", "http://c.example"})
	if want := []string{"https://a.example", "https://b.example", "http://c.example"}; !slices.Equal(got, want) {
		t.Errorf("got %q", got)
	}
}

// A page that others would reach stops the daemon before it does anything.
func TestAnOpenAdminPageIsRefused(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.Add(w.Sign(1, "v1", w.Release))
	for want, c := range map[string]admin.Config{
		"others reach this address":                    {Addr: "0.0.0.0:0"},
		"does not exist":                               {Addr: "0.0.0.0:0", Token: filepath.Join(t.TempDir(), "token")},
		"--admin 192.0.2.1:1":                          {Addr: "192.0.2.1:1", Token: "t"},
		"name one of its own, or 0.0.0.0:PORT for all": {Addr: "192.0.2.1:1", Token: "t"},
	} {
		opts := w.serveOptions()
		opts.DHT, opts.Admin = DHTOff, c
		if err := Serve(context.Background(), opts); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
}

// The page on every address names those that a browser can open.
func TestThePageNamesItsAddresses(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.Add(w.Sign(1, "v1", w.Release))
	w.Write("token", []byte("0123456789abcdef"))
	opts := w.serveOptions()
	opts.DHT, opts.Admin = DHTOff, admin.Config{Addr: "0.0.0.0:0", Token: w.Path("token")}
	r, _ := w.serve(opts)
	if len(r.Admin) == 0 || !strings.HasPrefix(r.Admin[len(r.Admin)-1], "http://127.0.0.1:") {
		t.Fatalf("admin page at %v", r.Admin)
	}
	for _, origin := range r.Admin {
		if strings.Contains(origin, "[") || strings.Contains(origin, "0.0.0.0") {
			t.Errorf("at %s", origin)
		}
		if status, _ := get(t, origin+"/"); status != http.StatusUnauthorized {
			t.Errorf("%s: %d", origin, status)
		}
	}
}
