package manifest

import (
	"path"

	"github.com/ipfs/go-cid"

	"github.com/phaseboot/phaseboot/cas"
)

// A Target is a file that a release manifest signs, as TUF clients see it.
type Target struct {
	Path   string // CHANNEL/ARCH/…
	Length int64  // bytes
	SHA256 string // 64 lower-case hex digits
	CID    cid.Cid
}

// HashedPath is the path of the target's file in a repository with consistent snapshots, which
// TUF clients ask for: DIR/SHA256.NAME. https://theupdateframework.github.io/specification/v1.0.31/#writing-consistent-snapshots
func (t Target) HashedPath() string {
	dir, name := path.Split(t.Path)
	return dir + t.SHA256 + "." + name
}

// Targets lists the files that a release manifest signs, sorted by path; nil for other kinds.
func (d *Document) Targets() (list []Target) {
	if d.release == nil {
		return nil
	}
	targets := d.signed["targets"].(object)
	for _, path := range sorted(targets) {
		target := targets[path].(object)
		c, err := cas.ParseCID(target["custom"].(object)["cid"].(string))
		if err != nil { // Open has refused it
			continue
		}
		sum := target["hashes"].(object)["sha256"].(string)
		list = append(list, Target{Path: path, Length: target["length"].(int64), SHA256: sum, CID: c})
	}
	return list
}
