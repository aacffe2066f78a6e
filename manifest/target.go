package manifest

import (
	"crypto/sha256"
	"encoding/hex"
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
	Data   []byte // of a settings document, which is in the metadata; nil for an artifact
}

// HashedPath is the path of the target's file in a repository with consistent snapshots, which
// TUF clients ask for: DIR/SHA256.NAME. https://theupdateframework.github.io/specification/v1.0.31/#writing-consistent-snapshots
func (t Target) HashedPath() string {
	dir, name := path.Split(t.Path)
	return dir + t.SHA256 + "." + name
}

// Targets lists the files that a release manifest or the role config signs, sorted by path; nil for other kinds. A
// settings document has a CID of a raw leaf.
func (d *Document) Targets() (list []Target) {
	if d.config != nil {
		return d.configTargets()
	}
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

// configTargets lists the settings documents.
func (d *Document) configTargets() (list []Target) {
	targets := d.signed["targets"].(object)
	for _, path := range sorted(targets) {
		data := []byte(configDocument(targets[path]))
		sum := sha256.Sum256(data)
		list = append(list, Target{Path: path, Length: int64(len(data)), SHA256: hex.EncodeToString(sum[:]), CID: cas.Sum(cid.Raw, data), Data: data})
	}
	return list
}
