package mirror

import (
	"context"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"slices"

	"github.com/ipfs/go-cid"
	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/manifest"
	"github.com/phaseboot/phaseboot/publisher/repo"
)

// listBlocks lists the blocks of every artifact and of the metadata folder, each once: a node
// before the blocks below it, and the folder last.
func listBlocks(ctx context.Context, src cas.Source, c *content) ([]file, error) {
	var out []file
	seen := map[cid.Cid]bool{}
	add := func(one cid.Cid) error {
		if !seen[one] {
			seen[one] = true
			out = append(out, file{path: dirBlocks + one.String(), block: one})
		}
		return ctx.Err()
	}
	for r, a := range repo.Artifacts(c.releases...) {
		if err := cas.Blocks(ctx, src, a.CID, add); err != nil {
			return nil, fmt.Errorf("release %q, %s: %w", r.Version, a.Role, err)
		}
	}
	entries, err := cas.ReadDir(ctx, src, c.Folder)
	if err != nil {
		return nil, err
	}
	for _, entry := range entries {
		if err := add(entry.CID); err != nil {
			return nil, err
		}
	}
	return out, add(c.Folder)
}

// targets lists the targets, and those whose content another one has, which become hard links to it.
func (e *export) targets() (files, twins []file, err error) {
	if e.NoTargets {
		return nil, nil, nil
	}
	list, err := e.content.Targets(e.content.releases)
	if err != nil {
		return nil, nil, err
	}
	first := map[string]string{} // by sha256: the path of the file that the others link to, one that is there if possible
	for _, t := range list {
		if _, err := os.Lstat(e.mirror.at(targetPath(t))); err == nil && first[t.SHA256] == "" {
			first[t.SHA256] = targetPath(t)
		}
	}
	for i, t := range list {
		f := file{path: targetPath(t), target: &list[i]}
		if !exportedPath.MatchString(f.path) {
			return nil, nil, fmt.Errorf("target %.80q: not the path of a file of a mirror (%w)", t.Path, fs.ErrInvalid)
		}
		e.out.Targets++
		if link := first[t.SHA256]; link != "" && link != f.path {
			f.twin = link
			twins = append(twins, f)
			continue
		}
		first[t.SHA256] = f.path
		e.out.TargetBytes += t.Length
		files = append(files, f)
	}
	return files, twins, nil
}

func targetPath(t manifest.Target) string { return dirTargets + t.HashedPath() }

// metadata lists the metadata files, and apart from them the timestamp, each in both folders. Machines
// read neither: they have the metadata as blocks.
func (e *export) metadata() (files, timestamps []file) {
	for _, name := range slices.Sorted(maps.Keys(e.content.Files)) {
		for _, dir := range []string{dirMetadata, dirTUF} {
			f := file{path: dir + name, data: e.content.Files[name]}
			if name == manifest.FileName(metadata.TIMESTAMP, 0) {
				timestamps = append(timestamps, f)
			} else {
				files = append(files, f)
			}
		}
	}
	return files, timestamps
}
