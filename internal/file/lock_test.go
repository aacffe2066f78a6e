package file

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestALockIsHeldOnceUntilItsFileIsClosed(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	open := func() *os.File {
		t.Helper()
		f, err := OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
		if err != nil {
			t.Fatal(err)
		}
		return f
	}
	first, second := open(), open()
	defer second.Close()
	if err := TryLock(first); err != nil {
		t.Fatal(err)
	}
	if err := TryLock(second); !errors.Is(err, ErrLocked) {
		t.Errorf("while it is held: %v", err)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if err := Lock(ended, second); !errors.Is(err, context.Canceled) {
		t.Errorf("when the context has ended: %v", err)
	}
	locked := make(chan error)
	go func() { locked <- Lock(t.Context(), second) }()
	first.Close()
	if err := <-locked; err != nil {
		t.Errorf("after the close: %v", err)
	}
}

func TestAFullDiskNamesItsRemedy(t *testing.T) {
	for _, full := range []error{unix.ENOSPC, unix.EDQUOT} {
		err := FullDisk(&os.PathError{Op: "write", Path: "x", Err: full})
		if !errors.Is(err, full) || !strings.Contains(err.Error(), "free some space") {
			t.Errorf("%v", err)
		}
	}
	if err := FullDisk(os.ErrPermission); err != os.ErrPermission || FullDisk(nil) != nil {
		t.Errorf("%v", err)
	}
}
