package e2e

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/ipfs/go-cid"

	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/internal/p2p"
	"github.com/phaseboot/phaseboot/manifest"
)

// nginx serves a folder from the host without any setting about content, and returns its
// origin.
func (h host) nginx(root string) string {
	h.t.Helper()
	return h.nginxWith(h.t.TempDir(), fmt.Sprintf("server { listen %s:80; root %s; }\n", h.addr, root))
}

// nginxWith starts nginx on the host with settings, puts its files into dir, and returns its
// origin.
func (h host) nginxWith(dir, settings string) string {
	h.t.Helper()
	conf := fmt.Sprintf("user root;\npid %[1]s/pid;\nerror_log %[1]s/log;\nevents {}\nhttp {\naccess_log off;\n", dir)
	for _, kind := range []string{"client_body", "proxy", "fastcgi", "uwsgi", "scgi"} { // the default folders belong to root
		conf += fmt.Sprintf("%s_temp_path %s/%s;\n", kind, dir, kind)
	}
	conf += settings + "}\n"
	if err := os.WriteFile(filepath.Join(dir, "conf"), []byte(conf), 0o644); err != nil {
		h.t.Fatal(err)
	}
	nginx := []string{"netns", "exec", h.ns, "nginx", "-p", dir, "-c", filepath.Join(dir, "conf")}
	must(h.t, "ip", nginx...) // returns when nginx listens
	h.t.Cleanup(func() {
		must(h.t, "ip", append(nginx, "-s", "stop")...)
		if h.t.Failed() {
			log, _ := os.ReadFile(filepath.Join(dir, "log"))
			h.t.Logf("log of nginx:\n%s", log)
		}
	})
	return "http://" + h.addr
}

// export writes a static mirror of a store and a repository of the fixtures.
func export(t *testing.T, store, repo, mirror string) {
	t.Helper()
	must(t, fx.bin("phase-publish"), "export", "--store", fx.path(store), "--repo", fx.path(repo), "--out", mirror, "--ipns-key", fx.path("keys/ipns"))
}

// wantSigned compares the fetched files with the fixtures' artifacts.
func (f fetchResult) wantSigned() {
	f.t.Helper()
	if f.code != 0 {
		f.t.Fatalf("exit %d: %s", f.code, f.output)
	}
	for _, name := range []string{"kernel", "initramfs", "rootfs", "job/hello.wasm"} {
		if !bytes.Equal(readFile(f.t, filepath.Join(f.out, name)), readFile(f.t, fx.path("artifacts", name))) {
			f.t.Errorf("%s: differs from the signed file", name)
		}
	}
}

// phase-boot fetches from a folder that nginx serves, also while export publishes a newer
// release into it.
func TestAMachineFetchesFromNginxAlone(t *testing.T) {
	t.Parallel()
	l := newLAN(t)
	mirror := filepath.Join(l.dir, "mirror")
	export(t, "store", "repo", mirror)
	origin := l.host().nginx(mirror)
	l.fetch("repo/root.json", origin).wantSigned()

	store, repo := filepath.Base(t.TempDir())+"-store", filepath.Base(t.TempDir())+"-repo"
	if err := runAll([]string{"cp", "-a", fx.path("repo"), fx.path(repo)}, []string{"cp", "-a", fx.path("store"), fx.path(store)},
		signRelease(fx, repo, "release", "2026.13", repo+".json"), addRelease(fx, store, repo, repo+".json")); err != nil {
		t.Fatal(err)
	}
	moved := make(chan struct{})
	go func() {
		defer close(moved)
		export(t, store, repo, mirror)
	}()
	l.fetch("repo/root.json", origin).wantSigned() // of either release
	<-moved
	after := l.fetch("repo/root.json", origin)
	after.wantSigned()
	if !bytes.Contains([]byte(after.output), []byte("2026.13")) {
		t.Errorf("the newer release was not fetched: %s", after.output)
	}
}

// phase-boot fetches ranges of whole files from nginx, and single blocks from a mirror without these files.
func TestAMachineFetchesRangesFromNginx(t *testing.T) {
	t.Parallel()
	l := newLAN(t)
	mirror := filepath.Join(l.dir, "mirror")
	export(t, "store", "repo", mirror)
	dir, h := t.TempDir(), l.host()
	log := filepath.Join(dir, "access")
	origin := h.nginxWith(dir, fmt.Sprintf("log_format short '$status $uri'; server { listen %s:80; root %s; access_log %s short; }\n", h.addr, mirror, log))
	l.fetch("repo/root.json", origin).wantSigned()
	ranges, blocks := []byte("206 /tuf/targets/stable/x86_64/"), []byte("200 /ipfs/")
	first := readFile(t, log)
	if bytes.Count(first, ranges) == 0 {
		t.Errorf("no ranges:\n%s", first)
	}
	if err := os.RemoveAll(filepath.Join(mirror, "tuf")); err != nil {
		t.Fatal(err)
	}
	l.fetch("repo/root.json", origin).wantSigned()
	second := bytes.TrimPrefix(readFile(t, log), first)
	if n, before := bytes.Count(second, blocks), bytes.Count(first, blocks); bytes.Contains(second, ranges) || n <= before {
		t.Errorf("%d blocks with ranges, %d without:\n%s", before, n, second)
	}
}

// A plainGateway is a client of the IPFS trustless gateway specification that requests one
// block at a time. It uses none of our extensions.
type plainGateway struct {
	*http.Client
	origin string
}

func (g plainGateway) get(ctx context.Context, url, accept string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, g.origin+url, nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Accept", accept)
	resp, err := g.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s: %s", url, resp.Status)
	}
	return io.ReadAll(resp.Body)
}

func (g plainGateway) Block(ctx context.Context, c cid.Cid) ([]byte, error) {
	return g.get(ctx, "/ipfs/"+c.String()+"?format=raw", "application/vnd.ipld.raw")
}

func TestAnyTrustlessGatewayClientReadsAMirror(t *testing.T) {
	t.Parallel()
	mirror := filepath.Join(t.TempDir(), "mirror")
	export(t, "store", "repo", mirror)
	web := httptest.NewServer(http.FileServer(http.Dir(mirror)))
	defer web.Close()
	g := plainGateway{&http.Client{Timeout: time.Minute}, web.URL}

	names, err := os.ReadDir(filepath.Join(mirror, "ipns"))
	if err != nil || len(names) != 1 {
		t.Fatalf("%d records, %v", len(names), err)
	}
	record, err := g.get(t.Context(), "/ipns/"+names[0].Name()+"?format=ipns-record", "application/vnd.ipfs.ipns-record")
	if err != nil {
		t.Fatal(err)
	}
	head, _, err := p2p.CheckRecord(names[0].Name(), record)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := cas.ReadDir(t.Context(), g, head); err != nil {
		t.Error(err)
	}
	signed := signedRelease(t)
	kernel, _ := signed.Artifact(manifest.RoleKernel)
	var got bytes.Buffer
	if err := cas.Copy(t.Context(), &got, g, kernel.CID, kernel.Length); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got.Bytes(), readFile(t, fx.path("artifacts/kernel"))) {
		t.Error("kernel: differs from the signed file")
	}
}
