package mirror

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ipfs/go-cid"
	"github.com/theupdateframework/go-tuf/v2/metadata/config"
	"github.com/theupdateframework/go-tuf/v2/metadata/updater"

	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/internal/gateway"
	"github.com/phaseboot/phaseboot/internal/ipnsname"
	"github.com/phaseboot/phaseboot/internal/p2p"
	"github.com/phaseboot/phaseboot/manifest"
	"github.com/phaseboot/phaseboot/publisher/pubtest"
	"github.com/phaseboot/phaseboot/publisher/repo"
)

type world struct{ *pubtest.World }

func newWorld(t *testing.T) *world { return &world{pubtest.New(t)} }

func (w *world) exportOptions() Options {
	return Options{Store: w.Path("store"), Repo: w.Repo(), Out: w.Path("mirror"), IPNS: []ed25519.PrivateKey{w.IPNS}, Grace: DefaultGrace}
}

func (w *world) export(o Options) Exported {
	w.T.Helper()
	e, err := Export(w.T.Context(), o)
	pubtest.Check(w.T, err)
	return e
}

// A mirrorFolder reads the blocks of a mirror, as a web server does.
type mirrorFolder string

func (m mirrorFolder) Block(_ context.Context, c cid.Cid) ([]byte, error) {
	return os.ReadFile(filepath.Join(string(m), "ipfs", c.String()))
}

// releaseOf reads every byte of the release that the record of a mirror points to, and
// verifies it as a machine does.
func (w *world) releaseOf(src cas.Source, record []byte) string {
	w.T.Helper()
	name, err := ipnsname.Of(pubtest.Public(w.IPNS))
	pubtest.Check(w.T, err)
	folder, _, err := p2p.CheckRecord(name, record)
	pubtest.Check(w.T, err)
	v := w.Verify(pubtest.Folder{Source: src, CID: folder.String()})
	for _, a := range v.Release().Artifacts {
		sum := sha256.New()
		pubtest.Check(w.T, cas.Copy(w.T.Context(), sum, src, a.CID, a.Length))
		if hex.EncodeToString(sum.Sum(nil)) != a.SHA256 {
			w.T.Errorf("%s of %s differs from what was signed", a.Role, v.Release().Version)
		}
	}
	return v.Release().Version
}

func (w *world) recordOf(dir string) []byte {
	w.T.Helper()
	name, err := ipnsname.Of(pubtest.Public(w.IPNS))
	pubtest.Check(w.T, err)
	data, err := os.ReadFile(filepath.Join(dir, "ipns", name))
	pubtest.Check(w.T, err)
	return data
}

func TestAMirrorIsAGatewayForAnyClient(t *testing.T) {
	w := newWorld(t)
	w.Add(w.Sign(1, "v1", w.Release))
	out := w.export(w.exportOptions())
	if len(out.Releases) != 1 || len(out.Records) != 1 || out.WrittenBytes < 3_000_000 {
		t.Errorf("it says %+v", out)
	}
	web := httptest.NewServer(http.FileServer(http.Dir(w.Path("mirror"))))
	defer web.Close()
	gw := &gateway.Client{Base: web.URL}
	record, err := gw.IPNS(t.Context(), out.Records[0])
	pubtest.Check(t, err)
	if got := w.releaseOf(gw, record); got != "v1" {
		t.Errorf("release %s", got)
	}
}

func TestGoTUFDownloadsFromAMirror(t *testing.T) {
	w := newWorld(t)
	w.Add(w.Sign(1, "v1", w.Release))
	w.export(w.exportOptions())
	web := httptest.NewServer(http.FileServer(http.Dir(w.Path("mirror"))))
	defer web.Close()
	cfg, err := config.New(web.URL+"/tuf/metadata", w.Read("repo/1.root.json"))
	pubtest.Check(t, err)
	cfg.RemoteTargetsURL = web.URL + "/tuf/targets"
	cfg.LocalMetadataDir, cfg.LocalTargetsDir = t.TempDir(), t.TempDir()
	client, err := updater.New(cfg)
	pubtest.Check(t, err)
	pubtest.Check(t, client.Refresh())
	for _, role := range []string{"kernel", "initramfs", "rootfs", "job/hello.wasm"} {
		target, err := client.GetTargetInfo("stable/x86_64/" + role)
		pubtest.Check(t, err)
		if _, data, err := client.DownloadTarget(target, "", ""); err != nil || !bytes.Equal(data, w.Read("artifacts/"+role)) {
			t.Errorf("%s: %d bytes, %v", role, len(data), err)
		}
	}
}

// An artifact is one file more, also when two channels have it; without targets there is none.
func TestTargetsAreWholeFilesOnce(t *testing.T) {
	w := newWorld(t)
	w.Publish(time.Now(), nil, "stable", "edge")
	targets := func() map[string]string {
		t.Helper()
		return pubtest.FilesOf(t, w.Path("mirror/tuf/targets"))
	}
	o := w.exportOptions()
	o.NoTargets = true
	if bare := w.export(o); len(targets()) != 0 || bare.Targets != 0 {
		t.Errorf("without targets: %+v", bare)
	}
	whole := w.export(w.exportOptions())
	if whole.Targets != 8 || whole.TargetBytes != 3_370_100 || whole.WrittenBytes != whole.TargetBytes || len(targets()) != 8 {
		t.Errorf("%+v", whole)
	}
	at := func(channel, role string) string {
		data := w.Read("artifacts/" + role)
		dir, name := filepath.Split(role)
		return w.Path(fmt.Sprintf("mirror/tuf/targets/%s/x86_64/%s%x.%s", channel, dir, sha256.Sum256(data), name))
	}
	for _, role := range []string{"kernel", "initramfs", "rootfs", "job/hello.wasm"} {
		var files [2]os.FileInfo
		for i, channel := range []string{"stable", "edge"} {
			data, err := os.ReadFile(at(channel, role))
			pubtest.Check(t, err)
			if !bytes.Equal(data, w.Read("artifacts/"+role)) {
				t.Errorf("%s/%s differs", channel, role)
			}
			files[i], err = os.Stat(at(channel, role))
			pubtest.Check(t, err)
		}
		if !os.SameFile(files[0], files[1]) {
			t.Errorf("two copies of %s", role)
		}
	}

	kernel := at("stable", "kernel") // damaged in both channels, as they are one file
	pubtest.Check(t, os.WriteFile(kernel, bytes.Repeat([]byte("x"), 300_000), 0o644))
	o.NoTargets, o.Verify = false, true
	if repaired := w.export(o); repaired.WrittenFiles != 2 || repaired.WrittenBytes != 300_000 {
		t.Errorf("%+v", repaired)
	}
	if data, _ := os.ReadFile(at("edge", "kernel")); !bytes.Equal(data, w.Read("artifacts/kernel")) {
		t.Error("the kernel of edge is damaged")
	}
	o.NoTargets, o.Verify, o.Grace = true, false, 0
	if removed := w.export(o); removed.RemovedFiles != 8 {
		t.Errorf("%+v", removed)
	}
	if left, err := os.ReadDir(w.Path("mirror/tuf/targets")); err != nil || len(left) != 0 {
		t.Errorf("%v are left, %v", left, err)
	}
}

// A web server would send what another program wrote under the name of a target.
func TestExportRefusesToReplaceATargetOfOthers(t *testing.T) {
	w := newWorld(t)
	w.Add(w.Sign(1, "v1", w.Release))
	o := w.exportOptions()
	o.NoTargets = true
	w.export(o)
	foreign := fmt.Sprintf("mirror/tuf/targets/stable/x86_64/%x.kernel", sha256.Sum256(w.Read("artifacts/kernel")))
	w.Write(foreign, []byte("mine"))
	if _, err := Export(t.Context(), w.exportOptions()); !errors.Is(err, fs.ErrInvalid) || !strings.Contains(err.Error(), "no export of this repository wrote it") {
		t.Errorf("%v", err)
	}
	if string(w.Read(foreign)) != "mine" {
		t.Error("it was replaced")
	}
}

// A target whose blocks were damaged in the store never gets its name, and the metadata stay.
func TestExportWritesNoWrongTarget(t *testing.T) {
	w := newWorld(t)
	w.Add(w.Sign(1, "v1", w.Release))
	o := w.exportOptions()
	o.NoTargets = true
	w.export(o) // the blocks are there, so that only the targets are read from the store
	packs, err := filepath.Glob(w.Path("store/*.car"))
	pubtest.Check(t, err)
	data, err := os.ReadFile(packs[0])
	pubtest.Check(t, err)
	rootfs := w.Read("artifacts/rootfs")
	at := bytes.Index(data, rootfs[:64])
	if at < 0 {
		t.Fatal("the store has no leaf of the rootfs")
	}
	data[at] ^= 1
	pubtest.Check(t, os.WriteFile(packs[0], data, 0o644))
	if _, err := Export(t.Context(), w.exportOptions()); !errors.Is(err, cas.ErrCorrupt) {
		t.Errorf("%v", err)
	}
	if _, err := os.Lstat(w.Path(fmt.Sprintf("mirror/tuf/targets/stable/x86_64/%x.rootfs", sha256.Sum256(rootfs)))); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the rootfs is there: %v", err)
	}
}

func TestASecondExportWritesNothing(t *testing.T) {
	w := newWorld(t)
	w.Add(w.Sign(1, "v1", w.Release))
	first := w.export(w.exportOptions())
	before := pubtest.FilesOf(t, w.Path("mirror"))
	second := w.export(w.exportOptions())
	pubtest.Unchanged(t, before, pubtest.FilesOf(t, w.Path("mirror")))
	if second.WrittenFiles != 0 || second.KeptFiles != first.WrittenFiles {
		t.Errorf("first %+v, second %+v", first, second)
	}
}

func TestARecordIsSignedAgainBeforeItExpires(t *testing.T) {
	w := newWorld(t)
	w.Add(w.Sign(1, "v1", w.Release))
	w.export(w.exportOptions())
	o := w.exportOptions()
	o.Now = func() time.Time { return time.Now().Add(repo.RecordRenew + time.Minute) }
	if again := w.export(o); again.WrittenFiles != 1 {
		t.Errorf("it wrote %d files", again.WrittenFiles)
	}
	end, err := p2p.RecordEnd(w.recordOf(w.Path("mirror")))
	pubtest.Check(t, err)
	if end.Before(time.Now().Add(repo.RecordLife + repo.RecordRenew)) {
		t.Errorf("the record ends at %s", end)
	}
}

func TestExportKeepsOldFilesForTheGraceAndNeverRemovesForeignFiles(t *testing.T) {
	w := newWorld(t)
	w.Add(w.Sign(1, "v1", w.Release))
	w.export(w.exportOptions())
	old := w.recordOf(w.Path("mirror"))
	foreign := []string{"index.html", "ipfs/" + cas.Sum(cid.Raw, []byte("mine")).String(), "ipns/mine", "metadata/9.mine.json", ".phase-export/mine", "tuf/targets/mine"}
	for _, name := range foreign {
		w.Write("mirror/"+name, []byte("mine"))
	}
	w.Next(2, "v2")
	second := w.export(w.exportOptions())
	src := mirrorFolder(w.Path("mirror"))
	if got := w.releaseOf(src, w.recordOf(w.Path("mirror"))); got != "v2" || second.WaitingFiles == 0 || second.RemovedFiles != 0 {
		t.Errorf("release %s, %+v", got, second)
	}
	if got := w.releaseOf(src, old); got != "v1" {
		t.Errorf("the old record points to %s", got)
	}
	o := w.exportOptions()
	o.Now = func() time.Time { return time.Now().Add(DefaultGrace - time.Minute) }
	o.IPNS = nil // whose record would have expired meanwhile
	if early := w.export(o); early.RemovedFiles != 0 {
		t.Errorf("removed within the grace: %+v", early)
	}
	o.Grace = 0
	late := w.export(o)
	if late.RemovedFiles != second.WaitingFiles || late.WaitingFiles != 0 {
		t.Errorf("%+v after %+v", late, second)
	}
	if got := w.releaseOf(src, w.recordOf(w.Path("mirror"))); got != "v2" {
		t.Errorf("release %s", got)
	}
	for _, name := range foreign {
		if string(w.Read("mirror/"+name)) != "mine" {
			t.Errorf("%s changed", name)
		}
	}
	if blocks, err := os.ReadDir(w.Path("mirror/ipfs")); err != nil || len(blocks) != late.KeptFiles-len(late.Records)-2*5-late.Targets+1 {
		t.Errorf("%d blocks, %v, %+v", len(blocks), err, late)
	}
}

func TestVerifyReplacesWrongBlocks(t *testing.T) {
	w := newWorld(t)
	w.Add(w.Sign(1, "v1", w.Release))
	w.export(w.exportOptions())
	blocks, err := filepath.Glob(w.Path("mirror/ipfs/*"))
	pubtest.Check(t, err)
	pubtest.Check(t, os.WriteFile(blocks[3], []byte("rot"), 0o644))
	pubtest.Check(t, os.Remove(blocks[4]))
	o := w.exportOptions()
	o.Verify = true
	if repaired := w.export(o); repaired.WrittenFiles != 2 {
		t.Errorf("%+v", repaired)
	}
	w.releaseOf(mirrorFolder(w.Path("mirror")), w.recordOf(w.Path("mirror")))
}

func TestExportRefusesBeforeItWrites(t *testing.T) {
	w := newWorld(t)
	w.Add(w.Sign(1, "v1", w.Release))
	other := newWorld(t)
	other.Add(other.Sign(1, "v1", other.Release))
	for _, tt := range []struct {
		name   string
		change func(o *Options)
		is     error
		says   string
	}{
		{"a foreign key", func(o *Options) { o.IPNS[0] = pubtest.NewKey(t) }, fs.ErrInvalid, "root.json lists"},
		{"an expired timestamp", func(o *Options) { o.Now = func() time.Time { return time.Now().Add(25 * time.Hour) } }, manifest.ErrExpired, "sign again"},
		{"a folder of another repository", func(o *Options) { o.Repo, o.Store, o.IPNS[0] = other.Repo(), other.Path("store"), other.IPNS }, fs.ErrInvalid, "of another repository"},
		{"no store", func(o *Options) { o.Store = w.Path("nowhere") }, fs.ErrNotExist, "nowhere"},
		{"a file for a folder", func(o *Options) { o.Out = w.Path("repo/1.root.json") }, fs.ErrInvalid, "is a file"},
		{"a record of an older folder, and no key", func(o *Options) { w.Next(2, "v2"); o.IPNS = nil }, fs.ErrInvalid, "--ipns-key"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w.export(w.exportOptions())
			before := pubtest.FilesOf(t, w.Path("mirror"))
			o := w.exportOptions()
			tt.change(&o)
			if _, err := Export(t.Context(), o); !errors.Is(err, tt.is) || !strings.Contains(err.Error(), tt.says) {
				t.Errorf("%v; want %q", err, tt.says)
			}
			pubtest.Unchanged(t, before, pubtest.FilesOf(t, w.Path("mirror")))
		})
	}
}

func TestTwoExportsDoNotWriteOneFolder(t *testing.T) {
	w := newWorld(t)
	w.Add(w.Sign(1, "v1", w.Release))
	m := &mirror{dir: w.Path("mirror")}
	pubtest.Check(t, m.open())
	if _, err := Export(t.Context(), w.exportOptions()); err == nil || !strings.Contains(err.Error(), "another export is writing it") {
		t.Errorf("%v", err)
	}
	m.close()
	w.export(w.exportOptions())
}

func TestAReaderSeesACompleteReleaseWhileThePointerMoves(t *testing.T) {
	w := newWorld(t)
	w.Add(w.Sign(1, "v1", w.Release))
	w.export(w.exportOptions())
	moved := make(chan struct{})
	go func() {
		defer close(moved)
		for number := int64(2); number < 6; number++ {
			w.Next(number, "v"+string('0'+byte(number)))
			w.export(w.exportOptions())
		}
	}()
	src := mirrorFolder(w.Path("mirror"))
	for reading := true; reading; {
		select {
		case <-moved:
			reading = false
		default:
		}
		w.releaseOf(src, w.recordOf(w.Path("mirror")))
	}
	if got := w.releaseOf(src, w.recordOf(w.Path("mirror"))); got != "v5" {
		t.Errorf("the last release is %s", got)
	}
}

func TestAnOldCopyOfTheRepositoryDoesNotReplaceAMirror(t *testing.T) {
	w := newWorld(t)
	w.Add(w.Sign(1, "v1", w.Release))
	pubtest.Check(t, os.CopyFS(w.Path("old"), os.DirFS(w.Repo())))
	w.Next(2, "v2")
	w.export(w.exportOptions())
	before := pubtest.FilesOf(t, w.Path("mirror"))
	o := w.exportOptions()
	o.Repo = w.Path("old")
	if _, err := Export(t.Context(), o); !errors.Is(err, manifest.ErrRollback) {
		t.Errorf("an older timestamp: %v", err)
	}
	w.Write("mirror/metadata/2.root.json", w.Read("repo/1.root.json"))
	pubtest.Check(t, os.Remove(w.Path("mirror/metadata/timestamp.json")))
	if _, err := Export(t.Context(), w.exportOptions()); !errors.Is(err, manifest.ErrRollback) || !strings.Contains(err.Error(), "2.root.json") {
		t.Errorf("an older root: %v", err)
	}
	pubtest.Check(t, os.Remove(w.Path("mirror/metadata/2.root.json")))
	w.export(w.exportOptions())
	pubtest.Unchanged(t, before, pubtest.FilesOf(t, w.Path("mirror")))
}

// One of two channels has expired: the mirror gets the other, and the exit code reports it.
func TestExportReportsAChannelThatMachinesRefuse(t *testing.T) {
	t.Parallel()
	w, start := newWorld(t), time.Now()
	w.Publish(start, map[string]time.Duration{"edge-x86_64": 40 * pubtest.Day}, "stable", "edge")
	o := w.exportOptions()
	now := start
	o.Now = func() time.Time { return now }
	if before := w.export(o); before.Err() != nil || len(before.Releases) != 2 {
		t.Errorf("before the end: %+v, %v", before.Releases, before.Err())
	}
	now = start.Add(40 * pubtest.Day)
	after := w.export(o)
	if !errors.Is(after.Err(), manifest.ErrExpired) || !strings.Contains(after.LeftOut, "edge-x86_64.json version 1") || len(after.Releases) != 1 {
		t.Errorf("after it: %+v, %v", after.Releases, after.Err())
	}
	if _, err := os.Stat(w.Path("mirror/metadata/timestamp.json")); err != nil {
		t.Error(err)
	}
}
