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

// ErrState says that the disk, or the process, could not read what a State remembers. It is
// neither absent nor damaged then, so nothing may be accepted without it.
var ErrState = errors.New("the remembered metadata cannot be read, so an older release cannot be told")

// A disk is all that a State reads. The tests put one in its place that fails.
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

// retries are the pauses before a read is tried again.
var retries = []time.Duration{10 * time.Millisecond, 100 * time.Millisecond, 400 * time.Millisecond}

// A patientDisk tries again what failed for another reason than the files themselves, and
// says ErrState when it goes on failing.
type patientDisk struct {
	disk
	pause func(time.Duration)
}

func (d patientDisk) stat(path string) (info fs.FileInfo, err error) {
	err = d.patiently(func() error { info, err = d.disk.stat(path); return err })
	return info, err
}

func (d patientDisk) list(dir string) (entries []fs.DirEntry, err error) {
	err = d.patiently(func() error { entries, err = d.disk.list(dir); return err })
	return entries, err
}

func (d patientDisk) read(path string, max int64) (data []byte, err error) {
	err = d.patiently(func() error { data, err = d.disk.read(path, max); return err })
	return data, err
}

func (d patientDisk) patiently(try func() error) error {
	err := try()
	for i := 0; i < len(retries) && !judged(err); i++ {
		d.pause(retries[i])
		err = try()
	}
	if judged(err) {
		return err
	}
	remedy := "check the disk, and run it again"
	if errors.Is(err, fs.ErrPermission) {
		remedy = "make it readable for this user"
	}
	return fmt.Errorf("state: %w (%w); %s", err, ErrState, remedy)
}

// judged reports whether err says something of the file itself: it is there, it is not, or
// it is damaged. So does a file system that finds itself damaged (ext4: EUCLEAN, EBADMSG).
func judged(err error) bool {
	for _, of := range []error{fs.ErrNotExist, ErrMalformed, file.ErrTooLarge, unix.ENOTDIR, unix.ELOOP, unix.EUCLEAN, unix.EBADMSG} {
		if errors.Is(err, of) {
			return true
		}
	}
	return err == nil
}
