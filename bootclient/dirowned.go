package bootclient

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"path"
	"slices"

	"github.com/phaseboot/phaseboot/internal/file"
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
			return d.inTheWay(sub, kindOf(info))
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
	return d.inTheWay(name, kindOf(info))
}

func (d *DirSink) inTheWay(name, what string) error {
	return refusal.Invalid("output folder %s: %s is %s; move it away or name another output folder", d.dir, name, what)
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
	f, err := file.OpenIn(d.root, fileCommit, file.NoFollow)
	if err != nil {
		return names
	}
	defer f.Close()
	if json.NewDecoder(io.LimitReader(f, maxCommit)).Decode(&unfinished) != nil {
		return names
	}
	return append(names, unfinished...)
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
	if err := d.root.WriteFile(temp, data, 0o644); err != nil {
		return fmt.Errorf("output folder: %w", err)
	}
	f, err := d.root.Open(temp)
	if err != nil {
		return fmt.Errorf("output folder: %w", err)
	}
	defer f.Close()
	if err := f.Sync(); err != nil {
		return err
	}
	if err := d.root.Rename(temp, fileCommit); err != nil {
		return fmt.Errorf("output folder: %w", err)
	}
	return d.sync(".")
}

// older lists the artifacts of the release in the folder, nil when release.json was not
// written by a fetch.
func (d *DirSink) older() []string {
	f, err := file.OpenIn(d.root, fileRelease, file.NoFollow)
	if err != nil {
		return nil
	}
	defer f.Close()
	var rel manifest.Release
	if json.NewDecoder(io.LimitReader(f, manifest.MaxMetadata)).Decode(&rel) != nil || rel.Version == "" || rel.Channel == "" {
		return nil
	}
	names := []string{}
	for _, a := range rel.Artifacts {
		switch sub, name := path.Split(a.Role); {
		case !fs.ValidPath(a.Role) || name == "":
		case sub == "dtb/", sub == "job/", sub == "" && slices.Contains([]string{manifest.RoleKernel, manifest.RoleInitramfs, manifest.RoleRootfs}, name):
			names = append(names, a.Role)
		}
	}
	return names
}
