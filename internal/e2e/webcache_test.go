package e2e

import (
	"path/filepath"
	"strings"
	"testing"
)

// cachedBy starts nginx as a web cache of an origin with more settings, and returns its URL.
func (h host) cachedBy(origin, settings string) string {
	h.t.Helper()
	dir := h.t.TempDir()
	return h.nginxWith(dir, "proxy_cache_path "+dir+"/kept keys_zone=zone:1m;\nserver { listen "+h.addr+":80;\nlocation / { proxy_pass "+origin+"; proxy_cache zone; "+settings+" }\n}\n")
}

// Another client requests CARs through a web cache of a publisher. Then a machine requests
// blocks of the same CIDs through that cache.
func TestFetchThroughAWebCacheWithResponsesOfAnotherClient(t *testing.T) {
	t.Parallel()
	for _, cache := range []struct{ name, settings string }{
		{"with nothing but proxy_cache", ""},
		{"that ignores Cache-Control and Vary", "proxy_ignore_headers Cache-Control Expires Vary; proxy_cache_valid 200 1h;"},
		{"that ignores the query as well", "proxy_ignore_headers Cache-Control Expires Vary; proxy_cache_valid 200 1h; proxy_cache_key $uri;"},
		{"that ignores the query and does what headers say", "proxy_cache_key $uri;"},
	} {
		t.Run(cache.name, func(t *testing.T) {
			l := newLAN(t)
			publisher := l.host().publish("--mdns=false", "--dht", "off")
			url := l.host().cachedBy(publisher.HTTP[0], cache.settings)
			other := l.host()
			for _, c := range append(releaseCIDs(t), publisher.Head) {
				for _, ask := range [][]string{{"?format=car"}, {"", "-H", "Accept: application/vnd.ipld.car"}} {
					args := append([]string{"-fsS", "-o", "/dev/null", url + "/ipfs/" + c + ask[0]}, ask[1:]...)
					if out, err := other.command("curl", args...).CombinedOutput(); err != nil {
						t.Fatalf("curl %q: %v: %s", args, err, out)
					}
				}
			}
			got := l.fetch("repo/root.json", url)
			got.wantSigned()
			var report struct {
				Sources []struct {
					Name   string
					Banned bool
				}
			}
			decode(t, readFile(t, filepath.Join(got.out, "report.json")), &report)
			for _, s := range report.Sources {
				if s.Banned && strings.HasPrefix(s.Name, "http") {
					t.Errorf("the cache was banned: %+v\n%s", report, got.output)
				}
			}
		})
	}
}

// releaseCIDs returns the root CIDs of the artifacts of the fixtures' release.
func releaseCIDs(t *testing.T) (list []string) {
	t.Helper()
	signed := signedRelease(t)
	for _, a := range signed.Artifacts {
		list = append(list, a.CID.String())
	}
	return list
}
