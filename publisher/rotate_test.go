package publisher

import (
	"errors"
	"testing"

	"github.com/phaseboot/phaseboot/internal/gateway"
	"github.com/phaseboot/phaseboot/manifest"
	"github.com/phaseboot/phaseboot/publisher/ingest"
	"github.com/phaseboot/phaseboot/publisher/pubtest"
)

func TestServeSignsAgainWithAReplacedOnlineKey(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	first := w.Add(w.Sign(1, "v1", w.Release))
	w.Online, w.IPNS = pubtest.NewKey(t), pubtest.NewKey(t)
	w.NextRoot(2, w.Root)
	opts := w.serveOptions()
	opts.DHT = DHTOff
	r, _ := w.serve(opts)
	gw := &gateway.Client{Base: r.HTTP[0]}
	folder, seq := resolve(t, gw, r.IPNS)
	if folder == first.Pointer || seq != 2 {
		t.Errorf("folder %s, sequence %d", folder, seq)
	}
	if v := w.Verify(pubtest.Folder{Source: gw, CID: folder}); v.RootVersion() != 2 {
		t.Errorf("root %d", v.RootVersion())
	}
}

func TestServeKeepsTheOldPointerUntilItHasTheNewKey(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	r, gw, log := w.serveFirst()
	w.Online = pubtest.NewKey(t)
	w.NextRoot(2, w.Root)
	log.Wait(t, 1, `msg="pointer not moved"`, "--online-key")
	if v := w.Verify(pubtest.Folder{Source: gw, CID: r.Pointer}); v.RootVersion() != 1 {
		t.Errorf("root %d", v.RootVersion())
	}
	if folder, _ := resolve(t, gw, r.IPNS); folder != r.Pointer {
		t.Errorf("the pointer moved to %s", folder)
	}
	added := w.Add(w.Read("repo/1.stable-x86_64.json")) // another process, with the new key
	log.Wait(t, 1, moved(added.Pointer))
	if v := w.Verify(pubtest.Folder{Source: gw, CID: added.Pointer}); v.RootVersion() != 2 {
		t.Errorf("root %d", v.RootVersion())
	}
}

func TestReplacedReleaseKeysMoveThePointerWithTheNextRelease(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	r, gw, log := w.serveFirst()
	stolen := w.Release
	w.Release = pubtest.NewKey(t)
	w.NextTargets(2)
	log.Wait(t, 1, `msg="pointer not moved"`)
	if v := w.Verify(pubtest.Folder{Source: gw, CID: r.Pointer}); v.Release().Version != "v1" {
		t.Errorf("serves %s", v.Release().Version)
	}
	if _, err := ingest.Add(t.Context(), w.AddOptions(w.Sign(2, "evil", stolen))); !errors.Is(err, manifest.ErrSignature) {
		t.Errorf("a release that the stolen key signed: %v", err)
	}
	added := w.Add(w.Sign(2, "v2", w.Release))
	log.Wait(t, 1, moved(added.Pointer))
	if v := w.Verify(pubtest.Folder{Source: gw, CID: added.Pointer}); v.Release().Version != "v2" {
		t.Errorf("serves %s", v.Release().Version)
	}
}

func TestRenewedTargetsEnterTheSnapshotByThemselves(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	r, gw, log := w.serveFirst()
	w.NextTargets(2)
	log.Wait(t, 2, `msg="pointer moved"`)
	pointer, seq := resolve(t, gw, r.IPNS)
	folder := pubtest.Folder{Source: gw, CID: pointer}
	if _, err := folder.Metadata(t.Context(), "2.targets.json", 1<<20); err != nil || seq != 2 {
		t.Errorf("sequence %d, %v", seq, err)
	}
	if v := w.Verify(folder); v.Release().Version != "v1" {
		t.Errorf("serves %s", v.Release().Version)
	}
}
