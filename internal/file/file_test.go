package file

import (
	"errors"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// kinds makes a file of each kind that is not regular.
var kinds = map[string]func(path string) error{
	"a pipe":          func(p string) error { return unix.Mkfifo(p, 0o600) },
	"a folder":        func(p string) error { return os.Mkdir(p, 0o700) },
	"a symbolic link": func(p string) error { return os.Symlink("/dev/zero", p) },
	"a socket": func(p string) error {
		l, err := net.ListenUnix("unix", &net.UnixAddr{Name: p})
		if err == nil {
			l.SetUnlinkOnClose(false)
			err = l.Close()
		}
		return err
	},
}

func TestOnlyRegularFilesAreOpened(t *testing.T) {
	for words, make := range kinds {
		t.Run(words, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "f")
			if err := make(path); err != nil {
				t.Fatal(err)
			}
			for name, flag := range map[string]int{"read": os.O_RDONLY, "write": os.O_WRONLY, "both": os.O_RDWR, "create": os.O_RDWR | os.O_CREATE} {
				f, err := OpenFile(path, flag|NoFollow, 0o600)
				if !errors.Is(err, ErrKind) || !strings.Contains(err.Error(), words) || f != nil {
					t.Errorf("%s: %v, want an error that says %q", name, err, words)
				}
			}
			if _, err := Read(path, NoFollow, 10); !errors.Is(err, ErrKind) {
				t.Errorf("read: %v", err)
			}
			if _, err := OpenInRoot(filepath.Dir(path), "f"); err == nil || words != "a symbolic link" && !errors.Is(err, ErrKind) {
				t.Errorf("inside its folder: %v", err)
			}
			if err := CheckFolder(path); (err == nil) != (words == "a folder") {
				t.Errorf("as a folder: %v", err)
			}
		})
	}
	for _, device := range []string{"/dev/zero", "/dev/null"} {
		if _, err := Open(device, 0); !errors.Is(err, ErrKind) || !strings.Contains(err.Error(), "a device") {
			t.Errorf("%s: %v", device, err)
		}
	}
}

func TestLinksAreFollowedWithoutNoFollow(t *testing.T) {
	dir := t.TempDir()
	link := filepath.Join(dir, "link")
	if err := errors.Join(os.WriteFile(filepath.Join(dir, "real"), []byte("abc"), 0o600), os.Symlink("real", link)); err != nil {
		t.Fatal(err)
	}
	if data, err := Read(link, 0, 3); err != nil || string(data) != "abc" {
		t.Errorf("%q, %v", data, err)
	}
	if f, err := OpenInRoot(dir, "link"); err != nil {
		t.Error(err)
	} else {
		f.Close()
	}
	if _, err := Read(link, 0, 2); !errors.Is(err, ErrTooLarge) {
		t.Errorf("three bytes of two: %v", err)
	}
	if _, err := Read(filepath.Join(dir, "none"), NoFollow, 2); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a file that is not there: %v", err)
	}
}

func TestAPipeWithoutAWriterIsEmpty(t *testing.T) {
	path := filepath.Join(t.TempDir(), "fifo")
	if err := unix.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := OpenInput(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if data, err := io.ReadAll(f); err != nil || len(data) > 0 {
		t.Errorf("a pipe without a writer: %q, %v", data, err)
	}
	w, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.WriteString("phrase"); err != nil {
		t.Fatal(err)
	}
	w.Close()
	if data, err := io.ReadAll(f); err != nil || string(data) != "phrase" {
		t.Errorf("%q, %v", data, err)
	}
}

func TestReadDirBoundsTheNames(t *testing.T) {
	dir := t.TempDir()
	if entries, err := ReadDir(dir, 2); err != nil || len(entries) > 0 {
		t.Fatalf("an empty folder: %v, %v", entries, err)
	}
	for _, name := range []string{"a", "b", "c"} {
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if entries, err := ReadDir(dir, 3); err != nil || len(entries) != 3 {
		t.Errorf("%v, %v", entries, err)
	}
	if _, err := ReadDir(dir, 2); !errors.Is(err, ErrTooLarge) {
		t.Errorf("three names of two: %v", err)
	}
}
