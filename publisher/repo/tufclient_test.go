package repo_test

import (
	"encoding/hex"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/theupdateframework/go-tuf/v2/metadata/config"
	"github.com/theupdateframework/go-tuf/v2/metadata/updater"

	"github.com/phaseboot/phaseboot/manifest"
	"github.com/phaseboot/phaseboot/publisher/pubtest"
)

// Any TUF client can check a repository: here go-tuf's own, over plain HTTP, with nothing
// of ours in it. docs/foreign_test.go downloads the targets too.
func TestGoTUFsOwnClientVerifiesTheRepository(t *testing.T) {
	w := pubtest.New(t)
	release := w.Sign(1, "v1", w.Release)
	w.Add(release)
	anchor := w.Read("repo/1.root.json")
	web := httptest.NewServer(http.FileServer(http.Dir(w.Repo())))
	defer web.Close()
	local := t.TempDir()
	asksFor := func(version string) {
		t.Helper()
		cfg, err := config.New(web.URL, anchor)
		pubtest.Check(t, err)
		cfg.LocalMetadataDir, cfg.LocalTargetsDir = local, t.TempDir()
		client, err := updater.New(cfg)
		pubtest.Check(t, err)
		pubtest.Check(t, client.Refresh())
		kernel, err := client.GetTargetInfo("stable/x86_64/kernel")
		pubtest.Check(t, err)
		v := w.Verify(manifest.DirFetcher(w.Repo()))
		a, _ := v.Release().Artifact(manifest.RoleKernel)
		if v.Release().Version != version || kernel.Length != a.Length || hex.EncodeToString(kernel.Hashes["sha256"]) != a.SHA256 {
			t.Errorf("%s: it says %d bytes, sha256 %s; signed is %+v", version, kernel.Length, kernel.Hashes["sha256"], a)
		}
		if _, err := client.GetTargetInfo("stable/x86_64/nothing"); err == nil {
			t.Error("it knows a target that is not there")
		}
	}
	asksFor("v1")

	old := w.Root // other root, online and release keys
	w.Root, w.Online, w.Release = pubtest.NewKey(t), pubtest.NewKey(t), pubtest.NewKey(t)
	w.NextRoot(2, old, w.Root)
	w.NextTargets(2)
	w.Write("artifacts/kernel", []byte("another kernel"))
	w.Add(w.Sign(2, "v2", w.Release))
	asksFor("v2")
}
