package publisher

import (
	"bytes"
	"log/slog"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/ipfs/go-cid"

	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/internal/gateway"
)

func TestHealthSaysWhenTheStoreLacksWhatIsPublished(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.add(w.sign(1, "v1", w.release))
	opts, log := w.serveOptions(), new(bytes.Buffer)
	opts.DHT, opts.Metrics, opts.Log = DHTOff, "127.0.0.1:0", slog.New(slog.NewTextHandler(log, nil))
	r, stop := w.serve(opts)
	healthy := func(when string) {
		t.Helper()
		if code, said := get(t, r.Metrics[0]+"/healthz"); code != http.StatusOK {
			t.Errorf("%s: healthz says %d, %s", when, code, said)
		}
	}
	ill := func(when, why string) {
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
	check(t, os.Rename(w.path("store/pack-00000001.car"), w.path("away.car")))
	ill("without the pack", "file does not exist")
	if s, err := ReadStatus(t.Context(), w.statusOptions()); err != nil || s.Damage == "" {
		t.Errorf("status says %+v, %v", s, err)
	}
	check(t, os.Rename(w.path("away.car"), w.path("store/pack-00000001.car")))
	healthy("with the pack again")

	gw := &gateway.Client{Base: r.HTTP[0]}
	rootfs := w.artifact(r.Head, gw, "rootfs")
	leaves, err := cas.Leaves(t.Context(), gw, rootfs.CID, rootfs.Length)
	check(t, err)
	leaf := leaves[1].CID
	w.damage(leaf.String())
	if code, _ := get(t, r.HTTP[0]+"/ipfs/"+leaf.String()+"?format=raw"); code != http.StatusInternalServerError {
		t.Errorf("a damaged block got %d", code)
	}
	ill("with a damaged block", "hash to")
	w.damage(leaf.String())
	healthy("when it is mended")
	stop()
	if !strings.Contains(log.String(), "store="+w.path("store")+" remedy=\"phase-publish fsck\"") {
		t.Errorf("the log names no store and no remedy:\n%s", log)
	}
}

// A waiting log tells when it was told something.
type waiting struct {
	want string
	seen chan struct{}
}

func (w waiting) Write(p []byte) (int, error) {
	if strings.Contains(string(p), w.want) {
		select {
		case w.seen <- struct{}{}:
		default:
		}
	}
	return len(p), nil
}

func TestALostBlockIsLoggedThoughNobodyAsks(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.add(w.sign(1, "v1", w.release))
	opts, log := w.serveOptions(), waiting{"the store is not whole", make(chan struct{}, 1)}
	opts.DHT, opts.Log = DHTOff, slog.New(slog.NewTextHandler(log, nil))
	_, stop := w.serve(opts)
	defer stop()
	check(t, os.Remove(w.path("store/pack-00000001.car")))
	w.write("repo/note.json", []byte("{}")) // the daemon looks at its repository
	select {
	case <-log.seen:
	case <-time.After(time.Minute):
		t.Error("no word of it")
	}
}

func TestWholeMissesALeaf(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.add(w.sign(1, "v1", w.release))
	releases, err := keptReleases(t.Context(), w.repo(), 0)
	check(t, err)
	store, err := openStore(w.path("store"), nil)
	check(t, err)
	defer store.Close()
	check(t, whole(t.Context(), store, releases))
	rootfs, _ := releases[0].Artifact("rootfs")
	leaves, err := cas.Leaves(t.Context(), store, rootfs.CID, rootfs.Length)
	check(t, err)
	part, gone := cas.NewMemory(), leaves[len(leaves)-1].CID
	check(t, store.Each(t.Context(), func(c cid.Cid, _ int64) error {
		if bytes.Equal(c.Hash(), gone.Hash()) {
			return nil
		}
		data, err := store.Block(t.Context(), c)
		check(t, err)
		return part.Put(t.Context(), c, data)
	}))
	if err := whole(t.Context(), part, releases); err == nil || !strings.Contains(err.Error(), gone.String()) {
		t.Errorf("without %s: %v", gone, err)
	}
}

// A block of a release that gc took away was damaged once, and is no more.
func TestHealthForgetsADamagedBlockThatWasCollected(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.add(w.sign(1, "v1", w.release))
	old, err := keptReleases(t.Context(), w.repo(), 0)
	check(t, err)
	other := w.read("artifacts/rootfs")
	for i := range other {
		other[i] ^= 0xff
	}
	w.write("artifacts/rootfs", other)
	w.add(w.sign(2, "v2", w.release))
	opts := w.serveOptions()
	opts.DHT, opts.Metrics = DHTOff, "127.0.0.1:0"
	opts.Log = slog.New(slog.NewTextHandler(new(bytes.Buffer), nil))
	r, stop := w.serve(opts)
	defer stop()
	rootfs, _ := old[0].Artifact("rootfs")
	leaves, err := cas.Leaves(t.Context(), &gateway.Client{Base: r.HTTP[0]}, rootfs.CID, rootfs.Length)
	check(t, err)
	leaf := leaves[1].CID.String()
	w.damage(leaf)
	if code, _ := get(t, r.HTTP[0]+"/ipfs/"+leaf+"?format=raw"); code != http.StatusInternalServerError {
		t.Errorf("a damaged block got %d", code)
	}
	if code, said := get(t, r.Metrics[0]+"/healthz"); code != http.StatusServiceUnavailable {
		t.Errorf("with a damaged block: healthz says %d, %s", code, said)
	}
	done, err := Collect(t.Context(), CareOptions{Store: w.path("store"), Repo: w.repo(), Keep: 1})
	if check(t, err); done.Blocks == 0 {
		t.Fatal("nothing was collected")
	}
	if code, said := get(t, r.Metrics[0]+"/healthz"); code != http.StatusOK {
		t.Errorf("when it is gone: healthz says %d, %s", code, said)
	}
}

// A look at a large store on a slow disk takes minutes: who asks for a damaged block
// meanwhile is answered.
func TestWhoServesDoesNotWaitForALook(t *testing.T) {
	t.Parallel()
	k, done := soundness{wrong: map[cid.Cid]struct{}{}}, make(chan struct{})
	k.looking.Lock()
	defer k.looking.Unlock()
	go func() {
		k.meet(&cas.WrongError{CID: cas.Sum(cid.Raw, nil)})
		close(done)
	}()
	select {
	case <-done:
	case <-time.After(10 * time.Second):
		t.Error("it waits")
	}
	if len(k.met()) != 1 {
		t.Error("the block was not noted")
	}
}
