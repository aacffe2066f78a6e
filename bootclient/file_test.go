package bootclient_test

import (
	"bytes"
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/ipfs/go-cid"

	"github.com/phaseboot/phaseboot/bootclient"
	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/internal/p2p"
	"github.com/phaseboot/phaseboot/manifest"
)

const fileLimit = 8 << 20

// file fetches an artifact of a repository by its CID alone, and compares it.
func (m *machine) file(r *repo, role string) {
	m.t.Helper()
	got, err := bootclient.File(m.t.Context(), m.cfg, r.cids[role], fileLimit)
	ok(m.t, err)
	if !bytes.Equal(got, r.signed[role]) {
		m.t.Errorf("%s: got %d other bytes", role, len(got))
	}
}

// Sources that lack blocks, send wrong ones or are not there yet cost time only.
func TestAFileIsFetchedFromGoodSourcesAmongBadOnes(t *testing.T) {
	r := newRepo(t, "us", manifest.Discovery{})
	m := newMachine(t, r, "private")
	m.cfg.Hurry(10)
	late, addr := node(t, p2p.Options{}, nil)
	m.cfg.Mirrors = []string{serve(t, r, lacking).URL, serve(t, r, flip).URL, serve(t, r, broken).URL, "http://127.0.0.1:1"}
	m.cfg.Peers = []string{addr}
	timer := time.AfterFunc(time.Second, func() { late.Serve((&server{}).handler(r)) })
	defer timer.Stop()
	m.file(r, "rootfs") // of many leaves
	m.cfg.Root = nil    // it only names sources
	m.file(r, "job/hello.wasm")
}

// The CID of a large file costs one block.
func TestNoLeafOfATooLargeFileIsRequested(t *testing.T) {
	r := newRepo(t, "us", manifest.Discovery{})
	m := newMachine(t, r, "private")
	s := serve(t, r, func(w http.ResponseWriter, req *http.Request, good http.Handler) { good.ServeHTTP(w, req) })
	m.cfg.Mirrors = []string{s.URL}
	for role, limit := range map[string]int64{"rootfs": int64(len(r.signed["rootfs"])) - 1, "job/hello.wasm": 100} {
		s.blocks.Store(0)
		_, err := bootclient.File(t.Context(), m.cfg, r.cids[role], limit)
		if tooLarge := new(bootclient.TooLargeError); !errors.As(err, &tooLarge) || tooLarge.Limit != limit {
			t.Errorf("%s: %v", role, err)
		}
		if n := s.blocks.Load(); n != 1 {
			t.Errorf("%s: %d blocks were requested", role, n)
		}
	}
}

func TestTheErrorOfAFileNamesWhatWasAsked(t *testing.T) {
	r := newRepo(t, "us", manifest.Discovery{})
	lacks, lies := serve(t, r, lacking), serve(t, r, flip)
	for name, c := range map[string]struct {
		mirrors []string
		id      cid.Cid
		want    error
		words   []string
	}{
		"no source": {nil, r.cids["kernel"], cas.ErrUnreachable, []string{"no mirror or peer was named"}},
		"unreachable": {
			[]string{lacks.URL, "http://127.0.0.1:1"},
			r.cids["kernel"], cas.ErrUnreachable,
			[]string{"within 1s", lacks.URL + ": block", "file does not exist", "mirror http://127.0.0.1:1: ", "connection refused"},
		},
		"wrong bytes": {[]string{lies.URL}, r.cids["kernel"], cas.ErrCorrupt, []string{lies.URL}},
		"a folder":    {[]string{serve(t, r, nil).URL}, r.directory, cas.ErrCorrupt, []string{"a folder, not a file"}},
	} {
		m := newMachine(t, r, "private")
		m.cfg.Hurry(10)
		m.cfg.Mirrors, m.cfg.Timeout = c.mirrors, time.Second
		_, err := bootclient.File(t.Context(), m.cfg, c.id, fileLimit)
		if !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
			continue
		}
		for _, words := range c.words {
			if !strings.Contains(err.Error(), words) {
				t.Errorf("%s: %v: no %q", name, err, words)
			}
		}
	}
}

// The cache is read, and not written. With a whole file in it, no source is needed.
func TestAFileOfTheCacheNeedsNoSource(t *testing.T) {
	r := newRepo(t, "us", manifest.Discovery{})
	m := newMachine(t, r, "internet")
	m.cfg.Mode.Discovery, m.cfg.Cache = []string{"mirror"}, t.TempDir()
	m.cfg.Mirrors = []string{serve(t, r, nil).URL}
	m.boots(r)
	first := r.frozen()
	r.release("2", map[string][]byte{"kernel": content(11, 200<<10), "initramfs": content(12, 100<<10)})
	before := listing(t, m.cfg.Cache)
	m.cfg.Mirrors = []string{serve(t, r, nil).URL}
	m.file(r, "kernel")
	m.cfg.Mirrors = nil
	m.file(first, "rootfs")
	if after := listing(t, m.cfg.Cache); after != before {
		t.Errorf("the cache has changed from\n%s\nto\n%s", before, after)
	}
}
