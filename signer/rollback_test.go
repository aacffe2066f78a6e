package signer

import (
	"errors"
	"io/fs"
	"testing"

	"github.com/phaseboot/phaseboot/manifest"
)

// past has a letter for each release of a channel; equal letters are equal content.
func TestARollbackGoesBackAndNeverForward(t *testing.T) {
	for _, row := range []struct {
		past string
		want int64 // role version, 0 for none
	}{
		{"a", 0},
		{"aa", 0},
		{"ab", 1},
		{"abb", 1},
		{"abc", 2},
		{"aba", 0},   // b was taken back
		{"abcb", 1},  // c was taken back
		{"abcba", 0}, // so was b
		{"abac", 3},
		{"abcbb", 1},
	} {
		var past []Past
		for i, content := range row.past {
			p := Past{Number: int64(i + 1), Version: string(content), release: manifest.Release{Cmdline: string(content)}}
			for _, b := range past {
				if p.SameAs == 0 && sameContent(b.release, p.release) {
					p.SameAs = b.Number
				}
			}
			past = append(past, p)
		}
		p, err := RollbackSpec{ManifestSpec: ManifestSpec{Channel: "stable"}}.choose(past)
		if p.Number != row.want || row.want == 0 && !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: version %d, %v; want %d", row.past, p.Number, err, row.want)
		}
	}
}
