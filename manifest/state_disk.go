package manifest

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/phaseboot/phaseboot/internal/file"
)

// ErrState says that a file of the State could not be read because of the disk or the process.
// The file may have a floor, so nothing may be accepted without it.
var ErrState = errors.New("the remembered metadata cannot be read, so a rollback cannot be detected")

// A disk is how a State reads files. Tests replace it by one that fails.
type disk interface {
	stat(path string) (fs.FileInfo, error)
	list(dir string) ([]fs.DirEntry, error)
	read(path string, max int64) ([]byte, error)
}

type osDisk struct{}

// maxNames bounds the names in a state folder.
const maxNames = 1 << 12

func (osDisk) stat(path string) (fs.FileInfo, error)       { return os.Lstat(path) }
func (osDisk) list(dir string) ([]fs.DirEntry, error)      { return file.ReadDir(dir, maxNames) }
func (osDisk) read(path string, max int64) ([]byte, error) { return readState(path, max) }

// retries are the pauses before a read is tried again, in order.
var retries = []time.Duration{10 * time.Millisecond, 100 * time.Millisecond, 400 * time.Millisecond}

// A retryingDisk repeats an operation that failed for another reason than the file itself. When
// the operation still fails, the error wraps ErrState.
type retryingDisk struct {
	disk
	pause func(time.Duration)
}

func (d retryingDisk) stat(path string) (fs.FileInfo, error) {
	return retry(d, func() (fs.FileInfo, error) { return d.disk.stat(path) })
}

func (d retryingDisk) list(dir string) ([]fs.DirEntry, error) {
	return retry(d, func() ([]fs.DirEntry, error) { return d.disk.list(dir) })
}

func (d retryingDisk) read(path string, max int64) ([]byte, error) {
	return retry(d, func() ([]byte, error) { return d.disk.read(path, max) })
}

func retry[T any](d retryingDisk, try func() (T, error)) (T, error) {
	v, err := try()
	for i := 0; i < len(retries) && !aboutTheFile(err); i++ {
		d.pause(retries[i])
		v, err = try()
	}
	if aboutTheFile(err) {
		return v, err
	}
	remedy := "check the disk, and run it again"
	if errors.Is(err, fs.ErrPermission) {
		remedy = "make it readable for this user"
	}
	return v, fmt.Errorf("state: %w (%w); %s", err, ErrState, remedy)
}

// aboutTheFile reports whether err describes the file itself: it was read, it is missing, or it
// is damaged. Errors of a damaged file system count too (ext4: EUCLEAN, EBADMSG).
func aboutTheFile(err error) bool {
	for _, of := range []error{fs.ErrNotExist, ErrMalformed, file.ErrTooLarge, unix.ENOTDIR, unix.ELOOP, unix.EUCLEAN, unix.EBADMSG} {
		if errors.Is(err, of) {
			return true
		}
	}
	return err == nil
}
