package signer

import (
	"maps"
	"slices"
	"time"

	"github.com/theupdateframework/go-tuf/v2/metadata"
)

// A Named is a file that a snapshot or a timestamp names.
type Named struct {
	File    string `json:"file"`
	Version int64  `json:"version"`
	Length  int64  `json:"length"` // bytes
	SHA256  string `json:"sha256"` // hex
}

// named lists the files that a snapshot or a timestamp names, nil for other kinds.
func (d *document) named() []Named {
	var meta map[string]*metadata.MetaFiles
	switch m := d.meta.(type) {
	case *metadata.Metadata[metadata.SnapshotType]:
		meta = m.Signed.Meta
	case *metadata.Metadata[metadata.TimestampType]:
		meta = m.Signed.Meta
	}
	var list []Named
	for _, name := range slices.Sorted(maps.Keys(meta)) {
		f := meta[name]
		list = append(list, Named{name, f.Version, f.Length, f.Hashes["sha256"].String()})
	}
	return list
}

// signedAt is the date of signing of a timestamp, nil for other kinds and where it says none.
func (d *document) signedAt() *time.Time {
	m, ok := d.meta.(*metadata.Metadata[metadata.TimestampType])
	if !ok {
		return nil
	}
	x, _ := m.Signed.UnrecognizedFields["x-phaseboot"].(map[string]any)
	text, _ := x["signed_at"].(string)
	t, err := time.Parse(time.RFC3339, text)
	if err != nil {
		return nil
	}
	return &t
}
