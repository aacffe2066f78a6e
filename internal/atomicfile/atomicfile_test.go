package atomicfile

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestWriteReplacesAndLeavesNothingElse(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "f")
	for _, want := range []string{"old", "new"} {
		if err := Write(path, 0o600, []byte(want)); err != nil {
			t.Fatal(err)
		}
		checkOnly(t, dir, want)
	}
}

func TestCreateLeavesAnExistingFileAlone(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "f")
	if err := Create(path, 0o600, []byte("first")); err != nil {
		t.Fatal(err)
	}
	if err := Create(path, 0o600, []byte("second")); !errors.Is(err, fs.ErrExist) {
		t.Fatalf("got %v, want fs.ErrExist", err)
	}
	checkOnly(t, dir, "first")
}

func TestWriteFromThatFailsKeepsTheOldFile(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "f")
	if err := Write(path, 0o600, []byte("old")); err != nil {
		t.Fatal(err)
	}
	broken := errors.New("half way")
	err := WriteFrom(path, 0o600, func(w io.Writer) error {
		if _, err := io.WriteString(w, "half"); err != nil {
			return err
		}
		return broken
	})
	if !errors.Is(err, broken) {
		t.Fatalf("got %v", err)
	}
	checkOnly(t, dir, "old")
}

func TestCheckSaysBeforeWhatWriteWouldSay(t *testing.T) {
	dir := t.TempDir()
	good := filepath.Join(dir, "file")
	if err := Check(good); err != nil {
		t.Errorf("a new file: %v", err)
	}
	if err := os.WriteFile(good, []byte("old"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := Check(good); err != nil {
		t.Errorf("a file that is there: %v", err)
	}
	for _, path := range []string{filepath.Join(dir, "missing", "file"), dir, "/dev/full"} {
		err, want := Check(path), Write(path, 0o600, nil)
		if err == nil || want == nil || err.Error() != want.Error() {
			t.Errorf("%s: Check says %v, and Write %v", path, err, want)
		}
	}
	if data, err := os.ReadFile(good); string(data) != "old" || err != nil {
		t.Errorf("the file has %q (%v)", data, err)
	}
	if entries, err := os.ReadDir(dir); len(entries) != 1 || err != nil {
		t.Errorf("left behind: %v (%v)", entries, err)
	}
}

func TestAnErrorNamesTheFileThatFailed(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f")
	other := &fs.PathError{Op: "read", Path: "input", Err: unix.EIO}
	if err := WriteFrom(path, 0o600, func(io.Writer) error { return other }); err != other {
		t.Errorf("of an input: got %v", err)
	}
	err := Build(path, 0o600, func(name string) error { return &fs.PathError{Op: "truncate", Path: name, Err: unix.EIO} })
	if want := "write " + path + ": input/output error"; err == nil || err.Error() != want {
		t.Errorf("of the temporary file: got %v, want %s", err, want)
	}
}

func TestWriteReplacesOnlyRegularFiles(t *testing.T) {
	dir := t.TempDir()
	pipe, link := filepath.Join(dir, "pipe"), filepath.Join(dir, "link")
	if err := unix.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("pipe", link); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{pipe, link, dir} {
		before, err := os.Lstat(path)
		if err != nil {
			t.Fatal(err)
		}
		if err := Write(path, 0o600, []byte("new")); !errors.Is(err, fs.ErrInvalid) {
			t.Errorf("%s: got %v, want fs.ErrInvalid", path, err)
		}
		if after, err := os.Lstat(path); err != nil || !os.SameFile(before, after) {
			t.Errorf("%s: replaced, %v", path, err)
		}
	}
}

func TestWriteTakesTheLongestName(t *testing.T) {
	path := filepath.Join(t.TempDir(), strings.Repeat("x", 255))
	if err := Write(path, 0o600, nil); err != nil {
		t.Fatal(err)
	}
}

// checkOnly fails unless dir contains only the file f, with the wanted text and mode 0600.
func checkOnly(t *testing.T, dir, want string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 1 {
		t.Fatalf("names in the folder: %v, %v", entries, err)
	}
	path := filepath.Join(dir, "f")
	got, err := os.ReadFile(path)
	if err != nil || string(got) != want {
		t.Fatalf("got %q, %v; want %q", got, err, want)
	}
	if info, err := os.Stat(path); err != nil || info.Mode() != 0o600 {
		t.Fatalf("mode %v, %v", info.Mode(), err)
	}
}
