package bootclient

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path"
	"slices"
	"syscall"

	"github.com/phaseboot/phaseboot/bootclient/cache"
	"github.com/phaseboot/phaseboot/bootclient/fetch"
	"github.com/phaseboot/phaseboot/bootclient/report"
	"github.com/phaseboot/phaseboot/internal/atomicfile"
	"github.com/phaseboot/phaseboot/internal/file"
	"github.com/phaseboot/phaseboot/internal/refusal"
	"github.com/phaseboot/phaseboot/manifest"
)

// Files that a DirSink writes in addition to the artifacts.
const (
	fileCmdline = "cmdline"
	fileRelease = "release.json"
	fileReport  = "report.json"
)

const tempPrefix = ".phase-boot."

// A DirSink writes a release into a folder: kernel, initramfs, rootfs, dtb/NAME,
// job/NAME.wasm, boot/NAME, cmdline, release.json and report.json. Until Commit they are
// temporary files in a hidden subfolder; a folder without release.json is incomplete.
// A file with one of these names is replaced if an earlier fetch wrote it, and refused
// otherwise. All other files stay. Artifacts that the new release lacks are removed.
type DirSink struct {
	dir     string
	created bool // NewDirSink created the folder
	root    *os.Root
	temp    string   // subfolder for unverified files
	lock    *os.File // lock on it; nil where the file system has none
	files   map[string]*os.File

	reserved int64 // bytes of the opened artifacts
}

// NewDirSink creates the folder if it is missing. Its parent must exist.
func NewDirSink(dir string) (*DirSink, error) {
	err := os.Mkdir(dir, 0o755)
	made := err == nil
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("output folder: %w; make its parent first", err)
	case err != nil && !errors.Is(err, fs.ErrExist):
		return nil, fmt.Errorf("output folder: %w", err)
	}
	if info, err := os.Stat(dir); err == nil && !info.IsDir() {
		return nil, refusal.Invalid("output folder %s: is not a folder; name another one", dir)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, fmt.Errorf("output folder: %w", err)
	}
	d := &DirSink{dir: dir, created: made, root: root, files: map[string]*os.File{}}
	for _, name := range extraFiles {
		if err := d.checkReplaceable(name); err != nil {
			d.root.Close()
			return nil, err
		}
	}
	file.RemoveStale(root, tempPrefix) // of fetches that were killed
	if d.temp, d.lock, err = file.MkdirTemp(root, tempPrefix); err != nil {
		d.Abort()
		return nil, fmt.Errorf("output folder: %w", err)
	}
	return d, nil
}

// Open creates a temporary file, if the disk has room for it and for the files opened before. It
// does not allocate the blocks: that takes 0.3 s of one core for each GiB while the sources wait,
// and the writes do it in parallel.
func (d *DirSink) Open(role string, size int64) (fetch.Target, error) {
	f, err := d.create(role)
	if err != nil {
		return nil, err
	}
	d.reserved += size
	if free, err := cache.FreeBytes(f.Name()); err == nil && d.reserved > free {
		return nil, fmt.Errorf("output folder: %w", file.FullDisk(syscall.ENOSPC))
	}
	return f, f.Truncate(size)
}

func (d *DirSink) create(role string) (*os.File, error) {
	if d.files[role] != nil {
		return nil, fmt.Errorf("artifact %.80q: named twice", role)
	}
	if err := d.checkReplaceable(role); err != nil {
		return nil, err
	}
	f, err := d.root.OpenFile(fmt.Sprintf("%s/%d", d.temp, len(d.files)), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o644)
	if err == nil {
		d.files[role] = f
	}
	return f, err
}

// Commit syncs all files, removes those of an older release, and renames the new ones.
func (d *DirSink) Commit(v *manifest.Verified, r *report.Report) error {
	if err := d.extras(v.Release(), r); err != nil {
		return file.FullDisk(err)
	}
	for _, f := range d.files {
		if err := f.Sync(); err != nil {
			return file.FullDisk(err)
		}
	}
	for _, step := range []func() error{d.begin, d.folders, d.clear, d.rename} {
		if err := step(); err != nil {
			return file.FullDisk(err)
		}
	}
	for _, sub := range []string{"dtb", "job", "boot", "."} {
		if err := d.sync(sub); err != nil {
			return err
		}
	}
	d.root.Remove(fileCommit) // release.json lists the files now
	d.drop()
	return nil
}

// Close closes the files of a committed release. Until then they are readable for serving.
func (d *DirSink) Close() {
	for _, f := range d.files {
		f.Close()
	}
	d.files = nil
}

// extras writes the files that are not artifacts.
func (d *DirSink) extras(rel manifest.Release, r *report.Report) error {
	release, relErr := json.MarshalIndent(rel, "", "  ")
	report, repErr := json.MarshalIndent(r, "", "  ")
	if err := errors.Join(relErr, repErr); err != nil {
		return err
	}
	for name, data := range map[string][]byte{
		fileCmdline: []byte(rel.Cmdline + "\n"), fileRelease: append(release, '\n'), fileReport: append(report, '\n'),
	} {
		f, err := d.create(name)
		if err != nil {
			return err
		}
		if _, err := f.WriteAt(data, 0); err != nil {
			return err
		}
	}
	return nil
}

// clear removes the files of an older release, which its release.json lists. It removes
// release.json first.
func (d *DirSink) clear() error {
	for _, name := range append([]string{fileRelease, fileReport, fileCmdline}, d.older()...) {
		if err := d.root.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("output folder: %w", err)
		}
	}
	return nil
}

// folders creates the subfolders of the artifacts.
func (d *DirSink) folders() error {
	for role := range d.files {
		if sub := path.Dir(role); sub != "." {
			if err := d.root.MkdirAll(sub, 0o755); err != nil {
				return fmt.Errorf("output folder: %w", err)
			}
		}
	}
	return nil
}

// rename gives every file its final name, release.json last. If one rename fails, the renamed
// files are removed.
func (d *DirSink) rename() error {
	roles := slices.DeleteFunc(slices.Sorted(maps.Keys(d.files)), func(role string) bool { return role == fileRelease })
	roles = append(roles, fileRelease)
	for i, role := range roles {
		temp := path.Join(d.temp, path.Base(d.files[role].Name()))
		if err := d.root.Rename(temp, role); err != nil {
			for _, done := range roles[:i] {
				d.root.Remove(done)
			}
			return fmt.Errorf("output folder: %w", err)
		}
	}
	return nil
}

func (d *DirSink) sync(sub string) error {
	err := atomicfile.SyncDir(path.Join(d.dir, sub))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// Abort removes the unfinished files. It removes the folder too if it is empty and was created
// by NewDirSink.
func (d *DirSink) Abort() {
	d.Close()
	d.drop()
	if d.created {
		os.Remove(d.dir) // fails if it is not empty
	}
}

// drop removes the subfolder with the unfinished files.
func (d *DirSink) drop() {
	d.root.RemoveAll(d.temp)
	if d.lock != nil {
		d.lock.Close()
	}
	d.root.Close()
}

// Earlier opens a regular file of the output folder.
func (d *DirSink) Earlier(role string) *os.File {
	f, err := file.OpenIn(d.root, role, file.NoFollow)
	if err != nil {
		return nil
	}
	return f
}

// Folder is the path that NewDirSink was given.
func (d *DirSink) Folder() string { return d.dir }
