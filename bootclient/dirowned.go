package bootclient

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path"
	"slices"

	"github.com/phaseboot/phaseboot/internal/refusal"
	"github.com/phaseboot/phaseboot/manifest"
)

// fileCommit is a JSON array of file names: the files of an unfinished commit and the files that
// it replaces. A folder with an unfinished commit has no release.json.
const fileCommit = tempPrefix + "files"

// maxCommit is the most bytes of that file.
const maxCommit = 1 << 20

// extraFiles are the files that a DirSink writes in addition to the artifacts.
var extraFiles = []string{fileCmdline, fileRelease, fileReport}

// checkReplaceable returns an error that wraps fs.ErrInvalid if name is a folder or was not
// written by an earlier fetch.
func (d *DirSink) checkReplaceable(name string) error {
	if sub := path.Dir(name); sub != "." {
		if info, err := d.root.Lstat(sub); err == nil && !info.IsDir() {
			return d.inTheWay(sub, info)
		}
	}
	info, err := d.root.Lstat(name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return fmt.Errorf("output folder: %w", err)
	case !info.IsDir() && slices.Contains(d.written(), name):
		return nil // a link is replaced, not followed
	}
	return d.inTheWay(name, info)
}

func (d *DirSink) inTheWay(name string, info fs.FileInfo) error {
	return refusal.Invalid("output folder %s: %s is %s; move it away or name another output folder", d.dir, name, kindOf(info))
}

// kindOf names the kind of a file that is in the way.
func kindOf(info fs.FileInfo) string {
	switch mode := info.Mode(); {
	case mode.IsDir():
		return "a folder"
	case mode.IsRegular():
		return "a file that no earlier fetch wrote"
	case mode&fs.ModeSymlink != 0:
		return "a symbolic link"
	}
	return "not a regular file"
}

// written lists the files that an earlier fetch wrote here or was going to write.
func (d *DirSink) written() []string {
	names := d.older()
	if names != nil {
		names = append(names, extraFiles...)
	}
	var unfinished []string
	if d.readJSON(fileCommit, maxCommit, &unfinished) {
		names = append(names, unfinished...)
	}
	return names
}

// readJSON decodes a file of the folder, of at most limit bytes. It reports whether it could.
func (d *DirSink) readJSON(name string, limit int64, into any) bool {
	f := d.Earlier(name)
	if f == nil {
		return false
	}
	defer f.Close()
	return json.NewDecoder(io.LimitReader(f, limit)).Decode(into) == nil
}

// begin saves the names of the files that the commit creates and removes, before it does so.
func (d *DirSink) begin() error {
	names := append(d.written(), slices.Collect(maps.Keys(d.files))...)
	slices.Sort(names)
	data, err := json.Marshal(slices.Compact(names))
	if err != nil {
		return err
	}
	temp := path.Join(d.temp, "files")
	f, err := d.root.OpenFile(temp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err == nil {
		_, err = f.Write(data)
		err = errors.Join(err, f.Sync(), f.Close())
	}
	if err == nil {
		err = d.root.Rename(temp, fileCommit)
	}
	if err != nil {
		return fmt.Errorf("output folder: %w", err)
	}
	return d.sync(".")
}

// older lists the artifacts of the release in the folder, nil when release.json was not
// written by a fetch.
func (d *DirSink) older() []string {
	var rel manifest.Release
	if !d.readJSON(fileRelease, manifest.MaxMetadata, &rel) || rel.Version == "" || rel.Channel == "" {
		return nil
	}
	names := []string{}
	for _, a := range rel.Artifacts {
		switch sub, name := path.Split(a.Role); {
		case !fs.ValidPath(a.Role) || name == "":
		case sub == "dtb/", sub == "job/", manifest.IsBootSet(a.Role), sub == "" && slices.Contains([]string{manifest.RoleKernel, manifest.RoleInitramfs, manifest.RoleRootfs}, name):
			names = append(names, a.Role)
		}
	}
	return names
}
