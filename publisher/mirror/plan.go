package mirror

import (
	"context"
	"fmt"
	"maps"
	"slices"

	"github.com/ipfs/go-cid"

	"github.com/phaseboot/phaseboot/cas"
)

// blocks lists the blocks of every artifact and of the metadata folder, each once: a node
// before the blocks below it, and the folder last.
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
	for _, published := range e.content.releases {
		for _, r := range published.All() {
			for _, a := range r.Artifacts {
				if err := cas.Blocks(ctx, e.source, a.CID, add); err != nil {
					return nil, fmt.Errorf("release %q, %s: %w", r.Version, a.Role, err)
				}
			}
		}
	}
	entries, err := cas.ReadDir(ctx, e.source, e.content.Folder)
	if err != nil {
		return nil, err
	}
	for _, entry := range entries {
		if err := add(entry.CID); err != nil {
			return nil, err
		}
	}
	return out, add(e.content.Folder)
}

// metadata lists the metadata files, in the order of their names: the timestamp, the only one
// without a number, is the last.
func (e *export) metadata() (out []file) {
	for _, name := range slices.Sorted(maps.Keys(e.content.Files)) {
		out = append(out, file{path: dirMetadata + name, data: e.content.Files[name]})
	}
	return out
}
