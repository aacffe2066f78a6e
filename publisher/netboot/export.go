package netboot

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/phaseboot/phaseboot/internal/atomicfile"
	"github.com/phaseboot/phaseboot/internal/file"
)

// maxProgram bounds an EFI program that is copied, in bytes.
const maxProgram = 1 << 30

// Export copies the files into the folder below Path of a mirror, with a script for each program, and
// returns the names of those that it wrote. Files that are there with the same content stay, and
// it removes none.
func (f *Files) Export(mirror string) (written []string, err error) {
	names, err := f.names()
	if err != nil {
		return nil, err
	}
	dir := filepath.Join(mirror, filepath.FromSlash(Path))
	made, err := file.MkdirAll(dir, 0o755)
	for _, d := range made {
		err = errors.Join(err, os.Chmod(d, 0o755)) // whatever the umask
	}
	if err != nil {
		return nil, fmt.Errorf("mirror: %w", err)
	}
	for _, name := range names {
		data, err := f.read(name)
		if err != nil {
			return written, fmt.Errorf("netboot %s: %w", name, err)
		}
		to := filepath.Join(dir, name)
		if there, err := os.ReadFile(to); err == nil && bytes.Equal(there, data) {
			continue
		}
		if err := atomicfile.Write(to, 0o644, data); err != nil {
			return written, err
		}
		written = append(written, name)
	}
	return written, nil
}

// names lists the files, and the scripts that the programs without one get: each script after its
// program.
func (f *Files) names() (names []string, err error) {
	entries, err := os.ReadDir(f.dir)
	if err != nil {
		return nil, fmt.Errorf("netboot: %w", err)
	}
	for _, e := range entries {
		name := fileName.FindStringSubmatch(e.Name())
		if name == nil || f.only != "" && name[1] != f.only || e.IsDir() {
			continue
		}
		if names = append(names, name[0]); name[2] == "efi" {
			if _, err := os.Lstat(filepath.Join(f.dir, name[1]+".ipxe")); errors.Is(err, fs.ErrNotExist) {
				names = append(names, name[1]+".ipxe")
			}
		}
	}
	return names, nil
}

// read returns a file, or the script of a program.
func (f *Files) read(name string) ([]byte, error) {
	in, err := file.OpenInRoot(f.dir, name)
	if part := fileName.FindStringSubmatch(name); errors.Is(err, fs.ErrNotExist) && part[2] == "ipxe" {
		script, err := f.script(part[1])
		return []byte(script), err
	}
	if err != nil {
		return nil, err
	}
	defer in.Close()
	return file.ReadAll(in, maxProgram)
}
