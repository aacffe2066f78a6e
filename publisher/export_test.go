package publisher

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/hex"
	"errors"
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
	"github.com/phaseboot/phaseboot/internal/p2p"
	"github.com/phaseboot/phaseboot/manifest"
)

func (w *world) exportOptions() ExportOptions {
	return ExportOptions{Store: w.path("store"), Repo: w.repo(), Out: w.path("mirror"), IPNS: []ed25519.PrivateKey{w.ipns}, Grace: DefaultGrace}
}

func (w *world) export(o ExportOptions) Exported {
	w.t.Helper()
	e, err := Export(w.t.Context(), o)
	check(w.t, err)
	return e
}

// next publishes another release, of which the root filesystem is new.
func (w *world) next(number int64, version string) {
	w.t.Helper()
	w.write("artifacts/rootfs", bytes.Repeat([]byte(version), 100_000))
	w.add(w.sign(number, version, w.release))
}

// A mirrorFolder is what a web server has of a mirror.
type mirrorFolder string

func (m mirrorFolder) Block(_ context.Context, c cid.Cid) ([]byte, error) {
	return os.ReadFile(filepath.Join(string(m), "ipfs", c.String()))
}

// release reads the release that the record of a mirror points to, every byte of it, and
// verifies it as a machine would.
func (w *world) releaseOf(src cas.Source, record []byte) string {
	w.t.Helper()
	name, err := p2p.Name(public(w.ipns))
	check(w.t, err)
	head, _, err := p2p.CheckRecord(name, record)
	check(w.t, err)
	v := w.verify(folder{src, head.String()})
	for _, a := range v.Release().Artifacts {
		sum := sha256.New()
		check(w.t, cas.Copy(w.t.Context(), sum, src, a.CID, a.Length))
		if hex.EncodeToString(sum.Sum(nil)) != a.SHA256 {
			w.t.Errorf("%s of %s differs from what was signed", a.Role, v.Release().Version)
		}
	}
	return v.Release().Version
}

func (w *world) recordOf(dir string) []byte {
	w.t.Helper()
	name, err := p2p.Name(public(w.ipns))
	check(w.t, err)
	data, err := os.ReadFile(filepath.Join(dir, "ipns", name))
	check(w.t, err)
	return data
}

func TestAFolderOfFilesIsAGatewayForAnyClient(t *testing.T) {
	w := newWorld(t)
	w.add(w.sign(1, "v1", w.release))
	out := w.export(w.exportOptions())
	if len(out.Releases) != 1 || len(out.Records) != 1 || out.WrittenBytes < 3_000_000 {
		t.Errorf("it says %+v", out)
	}
	web := httptest.NewServer(http.FileServer(http.Dir(w.path("mirror"))))
	defer web.Close()
	gw := &gateway.Client{Base: web.URL}
	record, err := gw.IPNS(t.Context(), out.Records[0])
	check(t, err)
	if got := w.releaseOf(gw, record); got != "v1" {
		t.Errorf("release %s", got)
	}
}

func TestGoTUFsOwnClientReadsAMirror(t *testing.T) {
	w := newWorld(t)
	w.add(w.sign(1, "v1", w.release))
	w.export(w.exportOptions())
	web := httptest.NewServer(http.FileServer(http.Dir(w.path("mirror"))))
	defer web.Close()
	cfg, err := config.New(web.URL+"/metadata", w.read("repo/1.root.json"))
	check(t, err)
	cfg.LocalMetadataDir, cfg.LocalTargetsDir = t.TempDir(), t.TempDir()
	client, err := updater.New(cfg)
	check(t, err)
	check(t, client.Refresh())
	kernel, err := client.GetTargetInfo("stable/x86_64/kernel")
	check(t, err)
	if kernel.Length != 300_000 {
		t.Errorf("a kernel of %d bytes", kernel.Length)
	}
}

func TestASecondExportWritesNothing(t *testing.T) {
	w := newWorld(t)
	w.add(w.sign(1, "v1", w.release))
	first := w.export(w.exportOptions())
	before := snapshotOf(t, w.path("mirror"))
	second := w.export(w.exportOptions())
	unchanged(t, before, snapshotOf(t, w.path("mirror")))
	if second.WrittenFiles != 0 || second.KeptFiles != first.WrittenFiles {
		t.Errorf("first %+v, second %+v", first, second)
	}
}

func TestARecordIsSignedAgainBeforeItEnds(t *testing.T) {
	w := newWorld(t)
	w.add(w.sign(1, "v1", w.release))
	w.export(w.exportOptions())
	o := w.exportOptions()
	o.Now = func() time.Time { return time.Now().Add(recordRenew + time.Minute) }
	if again := w.export(o); again.WrittenFiles != 1 {
		t.Errorf("it wrote %d files", again.WrittenFiles)
	}
	end, err := p2p.RecordEnd(w.recordOf(w.path("mirror")))
	check(t, err)
	if end.Before(time.Now().Add(recordLife + recordRenew)) {
		t.Errorf("the record ends at %s", end)
	}
}

func TestAnExportKeepsWhatIsOldForTheGraceAndNeverRemovesWhatIsNotItsOwn(t *testing.T) {
	w := newWorld(t)
	w.add(w.sign(1, "v1", w.release))
	w.export(w.exportOptions())
	old := w.recordOf(w.path("mirror"))
	strangers := []string{"index.html", "ipfs/" + cas.Sum(cid.Raw, []byte("mine")).String(), "ipns/mine", "metadata/9.mine.json", ".phase-export/mine"}
	for _, name := range strangers {
		w.write("mirror/"+name, []byte("mine"))
	}
	w.next(2, "v2")
	second := w.export(w.exportOptions())
	src := mirrorFolder(w.path("mirror"))
	if got := w.releaseOf(src, w.recordOf(w.path("mirror"))); got != "v2" || second.WaitingFiles == 0 || second.RemovedFiles != 0 {
		t.Errorf("release %s, %+v", got, second)
	}
	if got := w.releaseOf(src, old); got != "v1" {
		t.Errorf("who is under way reads %s", got)
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
	if got := w.releaseOf(src, w.recordOf(w.path("mirror"))); got != "v2" {
		t.Errorf("release %s", got)
	}
	for _, name := range strangers {
		if string(w.read("mirror/"+name)) != "mine" {
			t.Errorf("%s changed", name)
		}
	}
	if blocks, err := os.ReadDir(w.path("mirror/ipfs")); err != nil || len(blocks) != late.KeptFiles-len(late.Records)-5+1 {
		t.Errorf("%d blocks, %v, %+v", len(blocks), err, late)
	}
}

func TestAWrongBlockIsWrittenAgain(t *testing.T) {
	w := newWorld(t)
	w.add(w.sign(1, "v1", w.release))
	w.export(w.exportOptions())
	blocks, err := filepath.Glob(w.path("mirror/ipfs/*"))
	check(t, err)
	check(t, os.WriteFile(blocks[3], []byte("rot"), 0o644))
	check(t, os.Remove(blocks[4]))
	o := w.exportOptions()
	o.Verify = true
	if mended := w.export(o); mended.WrittenFiles != 2 {
		t.Errorf("%+v", mended)
	}
	w.releaseOf(mirrorFolder(w.path("mirror")), w.recordOf(w.path("mirror")))
}

func TestAnExportIsRefusedBeforeItWrites(t *testing.T) {
	w := newWorld(t)
	w.add(w.sign(1, "v1", w.release))
	other := newWorld(t)
	other.add(other.sign(1, "v1", other.release))
	for _, tt := range []struct {
		name   string
		change func(o *ExportOptions)
		is     error
		says   string
	}{
		{"a foreign key", func(o *ExportOptions) { o.IPNS[0] = newKey(t) }, fs.ErrInvalid, "root.json lists"},
		{"an expired timestamp", func(o *ExportOptions) { o.Now = func() time.Time { return time.Now().Add(25 * time.Hour) } }, manifest.ErrExpired, "sign again"},
		{"a folder of another repository", func(o *ExportOptions) { o.Repo, o.Store, o.IPNS[0] = other.repo(), other.path("store"), other.ipns }, fs.ErrInvalid, "of another repository"},
		{"no store", func(o *ExportOptions) { o.Store = w.path("nowhere") }, fs.ErrNotExist, "nowhere"},
		{"a file for a folder", func(o *ExportOptions) { o.Out = w.path("repo/1.root.json") }, fs.ErrInvalid, "is a file"},
		{"a record of an older head, and no key", func(o *ExportOptions) { w.next(2, "v2"); o.IPNS = nil }, fs.ErrInvalid, "--ipns-key"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w.export(w.exportOptions())
			before := snapshotOf(t, w.path("mirror"))
			o := w.exportOptions()
			tt.change(&o)
			if _, err := Export(t.Context(), o); !errors.Is(err, tt.is) || !strings.Contains(err.Error(), tt.says) {
				t.Errorf("%v; want %q", err, tt.says)
			}
			unchanged(t, before, snapshotOf(t, w.path("mirror")))
		})
	}
}

func TestTwoExportsDoNotWriteOneFolder(t *testing.T) {
	w := newWorld(t)
	w.add(w.sign(1, "v1", w.release))
	m := &mirror{dir: w.path("mirror")}
	check(t, m.open())
	if _, err := Export(t.Context(), w.exportOptions()); err == nil || !strings.Contains(err.Error(), "another export is writing it") {
		t.Errorf("%v", err)
	}
	m.close()
	w.export(w.exportOptions())
}

func TestAReaderSeesAWholeReleaseWhileTheHeadMoves(t *testing.T) {
	w := newWorld(t)
	w.add(w.sign(1, "v1", w.release))
	w.export(w.exportOptions())
	moved := make(chan struct{})
	go func() {
		defer close(moved)
		for number := int64(2); number < 6; number++ {
			w.next(number, "v"+string('0'+byte(number)))
			w.export(w.exportOptions())
		}
	}()
	src := mirrorFolder(w.path("mirror"))
	for reading := true; reading; {
		select {
		case <-moved:
			reading = false
		default:
		}
		w.releaseOf(src, w.recordOf(w.path("mirror")))
	}
	if got := w.releaseOf(src, w.recordOf(w.path("mirror"))); got != "v5" {
		t.Errorf("the last release is %s", got)
	}
}

func TestALedgerIsReadAsItWasWrittenAndNothingElseIs(t *testing.T) {
	l := ledger{"ipfs/bafk": {}, "metadata/1.root.json": time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)}
	path := filepath.Join(t.TempDir(), "ledger")
	check(t, l.write(path))
	if got, err := readLedger(path); err != nil || !got.equal(l) {
		t.Errorf("%v, %v", got, err)
	}
	for _, line := range []string{"../etc/passwd", "ipfs/../x", "ipfs/", "metadata/../a.json", "metadata/.json", "/ipfs/a", "ipfs/a yesterday", "ipfs/a ", "ipfs/a 0001-01-01T00:00:00Z", "index.html", ""} {
		check(t, os.WriteFile(path, []byte(ledgerTitle+"\n"+line+"\n"), 0o644))
		if _, err := readLedger(path); !errors.Is(err, cas.ErrCorrupt) {
			t.Errorf("%q: %v", line, err)
		}
	}
}

func FuzzLedger(f *testing.F) {
	f.Add(ledgerTitle + "\nipfs/bafk\nmetadata/1.root.json 2026-01-02T03:04:05Z\n")
	f.Fuzz(func(t *testing.T, text string) {
		l, err := parseLedger(strings.NewReader(text))
		if err != nil {
			return
		}
		for path := range l {
			if !filepath.IsLocal(path) || !exported.MatchString(path) {
				t.Errorf("%q would be removed", path)
			}
		}
	})
}

func TestAMirrorIsNotTakenBackByAnOldCopyOfTheRepository(t *testing.T) {
	w := newWorld(t)
	w.add(w.sign(1, "v1", w.release))
	check(t, os.CopyFS(w.path("old"), os.DirFS(w.repo())))
	w.next(2, "v2")
	w.export(w.exportOptions())
	before := snapshotOf(t, w.path("mirror"))
	o := w.exportOptions()
	o.Repo = w.path("old")
	if _, err := Export(t.Context(), o); !errors.Is(err, manifest.ErrRollback) {
		t.Errorf("an older timestamp: %v", err)
	}
	w.write("mirror/metadata/2.root.json", w.read("repo/1.root.json"))
	check(t, os.Remove(w.path("mirror/metadata/timestamp.json")))
	if _, err := Export(t.Context(), w.exportOptions()); !errors.Is(err, manifest.ErrRollback) || !strings.Contains(err.Error(), "2.root.json") {
		t.Errorf("an older root: %v", err)
	}
	check(t, os.Remove(w.path("mirror/metadata/2.root.json")))
	w.export(w.exportOptions())
	unchanged(t, before, snapshotOf(t, w.path("mirror")))
}
