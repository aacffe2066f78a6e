// Package filetest makes a file of each kind, for tests of code that opens files which an attacker
// may have placed. Start at Kinds.
package filetest

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Timeout is how long an operation on a file of the wrong kind may take before the test fails as
// hanging. It measures nothing.
const Timeout = time.Minute

// Content is the content of the file that the links lead to, which must not change.
const Content = "the file behind the link"

// A Kind is one kind of file.
type Kind struct {
	Name string
	// Make makes one at path. outside is a file in another folder.
	Make func(path, outside string) error
}

// Kinds returns all kinds.
func Kinds() []Kind {
	return []Kind{
		{"empty", func(p, _ string) error { return os.WriteFile(p, nil, 0o600) }},
		{"garbage", func(p, _ string) error { return os.WriteFile(p, []byte("garbage\n"), 0o600) }},
		{"unreadable", func(p, _ string) error { return os.WriteFile(p, []byte("garbage\n"), 0) }},
		{"pipe", func(p, _ string) error { return unix.Mkfifo(p, 0o600) }},
		{"socket", makeSocket},
		{"device", func(p, _ string) error { return unix.Mknod(p, unix.S_IFCHR|0o600, 0) }}, // 0:0 needs no right
		{"folder", func(p, _ string) error { return os.Mkdir(p, 0o700) }},
		{"full folder", func(p, _ string) error { return os.MkdirAll(filepath.Join(p, "full"), 0o700) }},
		{"link to a file", func(p, outside string) error { return os.Symlink(outside, p) }},
		{"link to a folder", func(p, outside string) error { return os.Symlink(filepath.Dir(outside), p) }},
		{"link to a device", func(p, _ string) error { return os.Symlink("/dev/zero", p) }},
		{"link to nothing", func(p, outside string) error { return os.Symlink(outside+".none", p) }},
		{"link to itself", func(p, _ string) error { return os.Symlink(filepath.Base(p), p) }},
		{"sparse", func(p, _ string) error {
			return errors.Join(os.WriteFile(p, nil, 0o600), os.Truncate(p, 64<<30))
		}},
	}
}

func makeSocket(path, _ string) error {
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	defer dir.Close()
	// the name of a socket has at most 108 bytes
	short := fmt.Sprintf("/proc/self/fd/%d/%s", dir.Fd(), filepath.Base(path))
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: short})
	if err != nil {
		return err
	}
	l.SetUnlinkOnClose(false)
	return l.Close()
}

// Outside makes a file in a folder of its own. When the test ends, it fails if the file or the folder
// has changed.
func Outside(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	path := filepath.Join(dir, "outside")
	if err := os.WriteFile(path, []byte(Content), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		data, err := os.ReadFile(path)
		if err != nil || string(data) != Content {
			t.Errorf("the file behind the link holds %.40q, %v", data, err)
		}
		entries, err := os.ReadDir(dir)
		if err != nil || len(entries) != 1 {
			t.Errorf("the folder behind the link holds %v, %v", entries, err)
		}
	})
	return path
}

// Ends runs do and fails the test if do does not return within Timeout.
func Ends(t *testing.T, do func()) {
	t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		do()
	}()
	select {
	case <-done:
	case <-time.After(Timeout):
		t.Fatalf("it hangs: not done after %s", Timeout)
	}
}
