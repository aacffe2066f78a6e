package publisher

import (
	"io"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/ipfs/go-cid"

	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/cas/pack"
	"github.com/phaseboot/phaseboot/internal/gateway"
	"github.com/phaseboot/phaseboot/publisher/pubtest"
	"github.com/phaseboot/phaseboot/publisher/repo"
	"github.com/phaseboot/phaseboot/publisher/store"
)

func TestHealthReportsMissingAndDamagedBlocks(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.Add(w.Sign(1, "v1", w.Release))
	opts, log := w.serveOptions(), pubtest.NewLog()
	opts.DHT, opts.Metrics, opts.Log = DHTOff, "127.0.0.1:0", log.Logger()
	r, stop := w.serve(opts)
	healthy := func(when string) {
		t.Helper()
		if code, said := get(t, r.Metrics[0]+"/healthz"); code != http.StatusOK {
			t.Errorf("%s: healthz says %d, %s", when, code, said)
		}
	}
	unhealthy := func(when, why string) {
		t.Helper()
		code, said := get(t, r.Metrics[0]+"/healthz")
		if code != http.StatusServiceUnavailable || !strings.Contains(said, why) || !strings.Contains(said, "phase-publish fsck") {
			t.Errorf("%s: healthz says %d, %s", when, code, said)
		}
		if _, said := get(t, r.Metrics[0]+"/status"); !strings.Contains(said, why) {
			t.Errorf("%s: status says %s", when, said)
		}
	}
	healthy("at first")
	pubtest.Check(t, os.Rename(w.Path("store/pack-00000001.car"), w.Path("away.car")))
	unhealthy("without the pack", "file does not exist")
	if s, err := store.ReadStatus(t.Context(), w.statusOptions()); err != nil || s.Damage == "" {
		t.Errorf("status says %+v, %v", s, err)
	}
	pubtest.Check(t, os.Rename(w.Path("away.car"), w.Path("store/pack-00000001.car")))
	healthy("with the pack again")

	gw := &gateway.Client{Base: r.HTTP[0]}
	rootfs := w.artifact(r.Pointer, gw, "rootfs")
	leaves, err := cas.Leaves(t.Context(), gw, rootfs.CID, rootfs.Length)
	pubtest.Check(t, err)
	leaf := leaves[1].CID
	w.damage(leaf.String())
	if code, _ := get(t, r.HTTP[0]+"/ipfs/"+leaf.String()+"?format=raw"); code != http.StatusInternalServerError {
		t.Errorf("a damaged block got %d", code)
	}
	unhealthy("with a damaged block", "hash to")
	w.damage(leaf.String())
	healthy("when it is repaired")
	stop()
	if !strings.Contains(log.String(), "store="+w.Path("store")+" remedy=\"phase-publish fsck\"") {
		t.Errorf("the log names no store and no remedy:\n%s", log)
	}
}

func TestALostBlockIsLoggedWithoutARequest(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.Add(w.Sign(1, "v1", w.Release))
	opts, log := w.serveOptions(), pubtest.NewLog()
	opts.DHT, opts.Log = DHTOff, log.Logger()
	_, stop := w.serve(opts)
	defer stop()
	pubtest.Check(t, os.Remove(w.Path("store/pack-00000001.car")))
	w.touch()
	log.Wait(t, 1, `msg="store damaged"`)
}

// A damaged block is removed by gc with its release.
func TestHealthForgetsADamagedBlockThatGCRemoved(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.Add(w.Sign(1, "v1", w.Release))
	old, err := repo.Releases(t.Context(), w.Repo())
	pubtest.Check(t, err)
	other := w.Read("artifacts/rootfs")
	for i := range other {
		other[i] ^= 0xff
	}
	w.Write("artifacts/rootfs", other)
	w.Add(w.Sign(2, "v2", w.Release))
	opts := w.serveOptions()
	opts.DHT, opts.Metrics = DHTOff, "127.0.0.1:0"
	opts.Log = pubtest.NewLog().Logger()
	r, stop := w.serve(opts)
	defer stop()
	rootfs, _ := old[0].Artifact("rootfs")
	leaves, err := cas.Leaves(t.Context(), &gateway.Client{Base: r.HTTP[0]}, rootfs.CID, rootfs.Length)
	pubtest.Check(t, err)
	leaf := leaves[1].CID.String()
	w.damage(leaf)
	if code, _ := get(t, r.HTTP[0]+"/ipfs/"+leaf+"?format=raw"); code != http.StatusInternalServerError {
		t.Errorf("a damaged block got %d", code)
	}
	if code, said := get(t, r.Metrics[0]+"/healthz"); code != http.StatusServiceUnavailable {
		t.Errorf("with a damaged block: healthz says %d, %s", code, said)
	}
	done, err := store.GC(t.Context(), store.Options{Store: w.Path("store"), Repo: w.Repo(), Keep: 1})
	if pubtest.Check(t, err); done.Blocks == 0 {
		t.Fatal("nothing was collected")
	}
	if code, said := get(t, r.Metrics[0]+"/healthz"); code != http.StatusOK {
		t.Errorf("when it is gone: healthz says %d, %s", code, said)
	}
}

// A check of a large store on a slow disk takes minutes. A request for a damaged block is
// answered meanwhile.
func TestServingDoesNotWaitForAStoreCheck(t *testing.T) {
	t.Parallel()
	var h storeHealth
	done := make(chan struct{})
	h.checking.Lock()
	defer h.checking.Unlock()
	go func() {
		h.note(&cas.WrongError{CID: cas.Sum(cid.Raw, nil)})
		close(done)
	}()
	select {
	case <-done:
	case <-time.After(pubtest.Patience):
		t.Error("it waits")
	}
	if len(h.seen()) != 1 {
		t.Error("the block was not noted")
	}
}

func TestADamagedBlockIsLoggedOnce(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.Add(w.Sign(1, "v1", w.Release))
	opts, log := w.serveOptions(), pubtest.NewLog()
	opts.DHT, opts.Log = DHTOff, log.Logger()
	r, stop := w.serve(opts)
	gw := &gateway.Client{Base: r.HTTP[0]}
	rootfs := w.artifact(r.Pointer, gw, "rootfs")
	leaves, err := cas.Leaves(t.Context(), gw, rootfs.CID, rootfs.Length)
	pubtest.Check(t, err)
	damaged, other := leaves[1].CID, leaves[len(leaves)-1].CID
	for _, c := range []string{damaged.String(), other.String()} {
		w.damage(c)
		for range 5 {
			if status, _ := get(t, r.HTTP[0]+"/ipfs/"+c+"?format=raw"); status != http.StatusInternalServerError {
				t.Errorf("a damaged block got %d", status)
			}
		}
	}
	resp, err := http.Get(r.HTTP[0] + "/ipfs/" + rootfs.CID.String() + "?format=car")
	pubtest.Check(t, err)
	io.Copy(io.Discard, resp.Body) // it is cut short
	resp.Body.Close()
	stop()
	if n := strings.Count(log.String(), "block not served"); n != 2 {
		t.Errorf("%d lines for two blocks:\n%s", n, log)
	}
}

// damage changes a byte of a block in the store.
func (w *world) damage(name string) {
	w.T.Helper()
	store, err := pack.Open(w.Path("store"), pack.Options{ReadOnly: true})
	pubtest.Check(w.T, err)
	defer store.Close()
	c, err := cas.ParseCID(name)
	pubtest.Check(w.T, err)
	at, offset, err := store.OpenBlock(w.T.Context(), c)
	pubtest.Check(w.T, err)
	defer at.Close()
	file, err := os.OpenFile(at.Name(), os.O_RDWR, 0)
	pubtest.Check(w.T, err)
	defer file.Close()
	one := make([]byte, 1)
	offset += 1000
	_, err = file.ReadAt(one, offset)
	pubtest.Check(w.T, err)
	one[0] ^= 1
	_, err = file.WriteAt(one, offset)
	pubtest.Check(w.T, err)
}
