package publisher

import (
	"encoding/hex"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/theupdateframework/go-tuf/v2/metadata/config"
	"github.com/theupdateframework/go-tuf/v2/metadata/updater"

	"github.com/phaseboot/phaseboot/manifest"
)

// Any TUF client can check a repository: here go-tuf's own, over plain HTTP, with nothing
// of ours in it. It verifies metadata; the bytes of a target have a CID, not a TUF path.
func TestGoTUFsOwnClientVerifiesTheRepository(t *testing.T) {
	w := newWorld(t)
	release := w.sign(1, "v1", w.release)
	w.add(release)
	anchor := w.read("repo/1.root.json")
	web := httptest.NewServer(http.FileServer(http.Dir(w.repo())))
	defer web.Close()
	local := t.TempDir()
	asksFor := func(version string) {
		t.Helper()
		cfg, err := config.New(web.URL, anchor)
		check(t, err)
		cfg.LocalMetadataDir, cfg.LocalTargetsDir = local, t.TempDir()
		client, err := updater.New(cfg)
		check(t, err)
		check(t, client.Refresh())
		kernel, err := client.GetTargetInfo("stable/x86_64/kernel")
		check(t, err)
		v := w.verify(manifest.DirFetcher(w.repo()))
		a, _ := v.Release().Artifact(manifest.RoleKernel)
		if v.Release().Version != version || kernel.Length != a.Length || hex.EncodeToString(kernel.Hashes["sha256"]) != a.SHA256 {
			t.Errorf("%s: it says %d bytes, sha256 %s; signed is %+v", version, kernel.Length, kernel.Hashes["sha256"], a)
		}
		if _, err := client.GetTargetInfo("stable/x86_64/nothing"); err == nil {
			t.Error("it knows a target that is not there")
		}
	}
	asksFor("v1")

	old := w.root // other root, online and release keys
	w.root, w.online, w.release = newKey(t), newKey(t), newKey(t)
	w.nextRoot(2, old, w.root)
	w.nextTargets(2)
	w.write("artifacts/kernel", []byte("another kernel"))
	w.add(w.sign(2, "v2", w.release))
	asksFor("v2")
}
