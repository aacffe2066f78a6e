package publisher

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"testing"

	"github.com/theupdateframework/go-tuf/v2/metadata/config"
	"github.com/theupdateframework/go-tuf/v2/metadata/updater"

	"github.com/phaseboot/phaseboot/publisher/pubtest"
)

// roles are the artifacts of the releases of a world.
var roles = []string{"kernel", "initramfs", "rootfs", "job/hello.wasm"}

// A tufClient is go-tuf's own client with its stock settings.
type tufClient struct {
	w     *world
	url   string
	local string // its folder
}

// get downloads a target after a refresh.
func (c tufClient) get(path string) ([]byte, error) {
	c.w.T.Helper()
	cfg, err := config.New(c.url+"/tuf/metadata", c.w.Read("repo/1.root.json"))
	pubtest.Check(c.w.T, err)
	cfg.RemoteTargetsURL = c.url + "/tuf/targets"
	cfg.LocalMetadataDir, cfg.LocalTargetsDir = filepath.Join(c.local, "metadata"), filepath.Join(c.local, "targets")
	pubtest.Check(c.w.T, cfg.EnsurePathsExist())
	client, err := updater.New(cfg)
	pubtest.Check(c.w.T, err)
	pubtest.Check(c.w.T, client.Refresh())
	target, err := client.GetTargetInfo(path)
	if err != nil { // it may come with the next refresh
		return nil, err
	}
	_, data, err := client.DownloadTarget(target, "", "")
	return data, err
}

// The client follows a new release, and what it knew before is served meanwhile.
func TestATUFClientDownloadsEveryArtifact(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	r, _, log := w.serveFirst()
	c := tufClient{w, r.HTTP[0], t.TempDir()}
	download := func() {
		t.Helper()
		for _, role := range roles {
			if got, err := c.get("stable/x86_64/" + role); err != nil || !bytes.Equal(got, w.Read("artifacts/"+role)) {
				t.Errorf("%s: %d bytes, %v", role, len(got), err)
			}
		}
	}
	download()
	oldRootfs := fmt.Sprintf("/tuf/targets/stable/x86_64/%x.rootfs", sha256.Sum256(w.Read("artifacts/rootfs")))
	second := w.Next(2, "v2")
	log.Wait(t, 1, moved(second.Pointer))
	download()
	for path, want := range map[string]int{
		oldRootfs: 200, "/tuf/metadata/1.snapshot.json": 200, "/tuf/metadata/2.snapshot.json": 200, "/tuf/metadata/1.stable-x86_64.json": 200,
		"/tuf/metadata/2.root.json": 404, "/tuf/metadata/root.json": 404, "/tuf/metadata/.lock": 404,
		"/tuf/targets/stable/x86_64/rootfs": 404, "/tuf/targets/edge" + oldRootfs[len("/tuf/targets/stable"):]: 404,
	} {
		resp, err := http.Head(r.HTTP[0] + path)
		pubtest.Check(t, err)
		resp.Body.Close()
		if resp.StatusCode != want {
			t.Errorf("%s: %s", path, resp.Status)
		}
	}
}

// A damaged store sends no wrong byte: the client gets an error, and the log has the block.
func TestATUFClientGetsNothingFromADamagedStore(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	r, _, log := w.serveFirst()
	packs, err := filepath.Glob(w.Path("store/*.car"))
	pubtest.Check(t, err)
	data, err := os.ReadFile(packs[0])
	pubtest.Check(t, err)
	rootfs := w.Read("artifacts/rootfs")
	at := bytes.Index(data, rootfs[:64])
	if at < 0 {
		t.Fatal("the store has no leaf of the rootfs")
	}
	f, err := os.OpenFile(packs[0], os.O_WRONLY, 0)
	pubtest.Check(t, err)
	defer f.Close()
	_, err = f.WriteAt([]byte{data[at] ^ 1}, int64(at))
	pubtest.Check(t, err)
	c := tufClient{w, r.HTTP[0], t.TempDir()}
	if got, err := c.get("stable/x86_64/rootfs"); err == nil {
		t.Errorf("%d bytes", len(got))
	}
	log.Wait(t, 1, `msg="block not served"`, "corrupt")
	if got, err := c.get("stable/x86_64/kernel"); err != nil || !bytes.Equal(got, w.Read("artifacts/kernel")) {
		t.Errorf("kernel: %d bytes, %v", len(got), err)
	}
}
