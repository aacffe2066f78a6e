package plasm

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/tetratelabs/wazero"
)

// codeDir is the folder of compiled code in the empty file system of the process that runs a job.
const codeDir = "/code"

// codeSlack is the space of that file system in addition to the code, in bytes.
const codeSlack = 64 << 10

// fileCalls are the system calls with which the engine reads and writes compiled code, until the code of
// the job is ready.
var fileCalls = []string{"openat", "newfstatat", "fstatat", "fstatat64", "renameat", "renameat2", "unlinkat", "fsync", "getdents64"}

// A codeFolder is where wazero finds code that was compiled before, or puts the code that it compiles: a
// folder in memory that only this process sees.
type codeFolder struct {
	cache wazero.CompilationCache
	dir   string // of the files
}

// newCodeFolder makes the folder, with the size bytes that a codeFolder of another process has sent.
func newCodeFolder(code io.Reader, size int64) (*codeFolder, error) {
	cache, err := wazero.NewCompilationCacheWithDir(codeDir)
	if err != nil {
		return nil, err
	}
	versions, err := os.ReadDir(codeDir)
	if err != nil || len(versions) != 1 {
		return nil, fmt.Errorf("%s: %d folders: %w", codeDir, len(versions), errors.Join(err, errors.ErrUnsupported))
	}
	f := &codeFolder{cache, filepath.Join(codeDir, versions[0].Name())}
	if size > 0 {
		if err := f.receive(code, size); err != nil {
			return nil, err
		}
	}
	return f, nil
}

// give gives the folder to another user. It fails only where there is no other user.
func (f *codeFolder) give(user int) {
	for _, path := range append(f.files(), codeDir, f.dir) {
		_ = os.Chown(path, user, user)
	}
}

func (f *codeFolder) files() []string {
	files, _ := filepath.Glob(filepath.Join(f.dir, "*")) // the pattern is right
	return files
}

// receive writes the file of the code. Its name is the first part of the stream.
func (f *codeFolder) receive(code io.Reader, size int64) error {
	name := make([]byte, 64)
	if _, err := io.ReadFull(code, name); err != nil {
		return err
	}
	if !isHex32(string(name)) || size < int64(len(name)) {
		return fmt.Errorf("compiled code with the name %.70q", name)
	}
	to, err := os.OpenFile(filepath.Join(f.dir, string(name)), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = io.CopyN(to, code, size-int64(len(name)))
	return errors.Join(err, to.Close())
}

// errNoCode means that the engine has not stored the code: it had no room.
var errNoCode = errors.New("the compiled code was not stored")

// send writes the code that the engine has stored, for receive.
func (f *codeFolder) send(w io.Writer) error {
	files := f.files()
	if len(files) != 1 || !isHex32(filepath.Base(files[0])) {
		return errNoCode
	}
	from, err := os.Open(files[0])
	if err != nil {
		return err
	}
	defer from.Close()
	if _, err := io.WriteString(w, filepath.Base(files[0])); err != nil {
		return err
	}
	_, err = io.CopyBuffer(struct{ io.Writer }{w}, struct{ io.Reader }{from}, make([]byte, maxFrame))
	return err
}

// clear removes the files.
func (f *codeFolder) clear() {
	for _, path := range f.files() {
		_ = os.Remove(path)
	}
}
