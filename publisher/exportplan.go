package publisher

import (
	"context"
	"fmt"
	"slices"

	"github.com/ipfs/go-cid"

	"github.com/phaseboot/phaseboot/cas"
)

// read returns the files of the folder.
func (h *Head) read(ctx context.Context) (map[string][]byte, error) {
	entries, err := cas.ReadDir(ctx, h.blocks, h.Folder)
	if err != nil {
		return nil, err
	}
	files := make(map[string][]byte, len(entries))
	for _, e := range entries {
		if files[e.Name], err = cas.ReadFile(ctx, h.blocks, e.CID, cas.MaxBlock); err != nil {
			return nil, fmt.Errorf("metadata folder: %s: %w", e.Name, err)
		}
	}
	return files, nil
}

// blocks lists the blocks of every artifact and of the metadata folder, each once, nodes
// before what is below them and the folder last.
func (e *export) blocks(ctx context.Context) ([]file, error) {
	var out []file
	seen := map[cid.Cid]bool{}
	add := func(c cid.Cid) error {
		if !seen[c] {
			seen[c] = true
			out = append(out, file{path: dirBlocks + c.String(), block: c})
		}
		return ctx.Err()
	}
	for _, r := range e.head.releases {
		for _, a := range r.Artifacts {
			if err := cas.Blocks(ctx, e.source, a.CID, add); err != nil {
				return nil, fmt.Errorf("release %q, %s: %w", r.Version, a.Role, err)
			}
		}
	}
	entries, err := cas.ReadDir(ctx, e.source, e.head.Folder)
	if err != nil {
		return nil, err
	}
	for _, entry := range entries {
		if err := add(entry.CID); err != nil {
			return nil, err
		}
	}
	return out, add(e.head.Folder)
}

// metadata lists the files of the folder as files, by name.
func (e *export) metadata(which func(name string) bool) []file {
	var out []file
	for _, name := range slices.DeleteFunc(slices.Clone(e.head.Names), func(name string) bool { return !which(name) }) {
		out = append(out, file{path: dirMetadata + name, data: e.head.files[name]})
	}
	return out
}
