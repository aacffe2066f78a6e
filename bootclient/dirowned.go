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
	"github.com/phaseboot/phaseboot/manifest"
)

// fileCommit lists the files of a commit that has not ended, as a JSON array of names: those
// of the new release and those that it replaces. It stands for release.json, which such a
// folder lacks.
const fileCommit = tempPrefix + "files"

// maxCommit bounds it, in bytes.
const maxCommit = 1 << 20

// extraFiles are those that a DirSink writes beside the artifacts.
var extraFiles = []string{fileCmdline, fileRelease, fileReport}

// checkReplaceable refuses a name at which a folder stands, or anything that no earlier fetch
// wrote. The error wraps fs.ErrInvalid.
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
		return nil // a link there is replaced, not followed
	}
	return d.inTheWay(name, kindOf(info))
}

func (d *DirSink) inTheWay(name, what string) error {
	return misuse{fmt.Sprintf("output folder %s: %s is %s; move it away or name another output folder", d.dir, name, what)}
}

// kindOf names what stands where a regular file or a folder should.
func kindOf(info fs.FileInfo) string {
	switch mode := info.Mode(); {
	case mode.IsDir():
		return "a folder"
	case mode.IsRegular():
		return "a file that no earlier fetch wrote"
	case mode&fs.ModeSymlink != 0:
		return "a symbolic link"
	}
	return "no regular file"
}

// written lists the files that an earlier fetch wrote here, or was about to.
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

// begin writes down the files that the commit makes and removes, before it does.
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

// older lists the artifacts of the release that stands in the folder, nil when release.json
// is not one that a fetch wrote.
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
