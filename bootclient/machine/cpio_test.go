package machine

import (
	"bytes"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/u-root/u-root/pkg/cpio"
)

// archive makes a small archive as Payload does: headers first, data later.
func archive(t *testing.T) []byte {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "a.cpio"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	w := &cpioWriter{w: f}
	root, err := w.add(cpioEntry{name: "phase/rootfs.squashfs", mode: modeFile | 0o644, size: 5})
	if err != nil {
		t.Fatal(err)
	}
	job, err := w.add(cpioEntry{name: "phase/job/hello.wasm", mode: modeFile | 0o644, size: 3})
	if err != nil {
		t.Fatal(err)
	}
	if err := w.file("phase/machine.key", 0o600, []byte("key!")); err != nil {
		t.Fatal(err)
	}
	end, err := w.close()
	if err != nil {
		t.Fatal(err)
	}
	for off, data := range map[int64]string{root: "12345", job: "abc"} {
		if _, err := f.WriteAt([]byte(data), off); err != nil {
			t.Fatal(err)
		}
	}
	data, err := os.ReadFile(f.Name())
	if err != nil {
		t.Fatal(err)
	}
	if int64(len(data)) != end || end%4 != 0 {
		t.Fatalf("file of %d bytes, the archive ends at %d", len(data), end)
	}
	return data
}

func TestCpioUnpacksTheArchive(t *testing.T) {
	tool, err := exec.LookPath("cpio")
	if err != nil {
		t.Fatal("cpio is missing; run: apt-get install cpio")
	}
	dir := t.TempDir()
	cmd := exec.Command(tool, "-idmv")
	cmd.Dir, cmd.Stdin = dir, bytes.NewReader(archive(t))
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	for name, want := range map[string]string{"phase/rootfs.squashfs": "12345", "phase/job/hello.wasm": "abc", "phase/machine.key": "key!"} {
		if got, err := os.ReadFile(filepath.Join(dir, name)); err != nil || string(got) != want {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
	if info, err := os.Stat(filepath.Join(dir, "phase/machine.key")); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("machine.key: %v, %v", info, err)
	}
}

func TestURootReadsTheSameEntries(t *testing.T) {
	r := cpio.Newc.Reader(bytes.NewReader(archive(t)))
	var names []string
	for {
		rec, err := r.ReadRecord()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		names = append(names, rec.Name)
	}
	want := []string{"phase", "phase/rootfs.squashfs", "phase/job", "phase/job/hello.wasm", "phase/machine.key"}
	if diff := cmp.Diff(want, names); diff != "" {
		t.Error(diff)
	}
}

func TestTheSameEntriesGiveTheSameBytes(t *testing.T) {
	if !bytes.Equal(archive(t), archive(t)) {
		t.Error("two archives differ")
	}
}

func TestAFileOfFourGiBIsRefused(t *testing.T) {
	w := &cpioWriter{w: discardAt{}}
	if _, err := w.add(cpioEntry{name: "phase/rootfs.squashfs", size: 1 << 32}); err == nil || !strings.Contains(err.Error(), "4 GiB") {
		t.Errorf("got %v", err)
	}
}

type discardAt struct{}

func (discardAt) WriteAt(p []byte, _ int64) (int, error) { return len(p), nil }
