package signer

import (
	"errors"
	"io/fs"
	"slices"
	"strings"
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

// past has a letter for each release of a channel, and after it "-" if 0 % stopped it, "5" if it was for 5 %, "g" if
// for a group, "d" if from a date on that has passed, "D" if from one that has not, and "h" if a group was held.
func TestARollbackGoesToAReleaseForEveryMachine(t *testing.T) {
	percent := func(n int) *manifest.Rollout { return &manifest.Rollout{Percent: &n} }
	rollouts := map[byte]*manifest.Rollout{
		'.': nil, '-': percent(0), '5': percent(5), 'g': {Groups: []string{"canary"}}, 'h': {Hold: []string{"lab"}},
		'd': {NotBefore: noon.Add(-1)}, 'D': {NotBefore: noon.Add(1)},
	}
	for _, row := range []struct {
		past string
		want int64 // role version, 0 for none
	}{
		{"a.b.c.", 2},
		{"a.b5b-c.", 1},
		{"a.b-c.", 1},
		{"a.b5c.", 1},
		{"a.bgc.", 1},
		{"a.bDc.", 1},
		{"a.bdc.", 2},
		{"a.bhc.", 2},
		{"a.b5b.c.", 3}, // its last manifest counts
		{"a.b.b-c.", 1},
		{"a.b5b-", 1},
		{"a-b.", 0},
		{"a5b-c.", 0},
	} {
		var past []Past
		for i := 0; i < len(row.past); i += 2 {
			p := Past{Number: int64(i/2 + 1), Version: row.past[i : i+1], Rollout: rollouts[row.past[i+1]]}
			if j := slices.IndexFunc(past, func(b Past) bool { return b.Version == p.Version }); j >= 0 {
				p.SameAs = past[j].Number
			}
			past = append(past, p)
		}
		p, err := RollbackSpec{ManifestSpec: ManifestSpec{Channel: "stable", Now: noon}}.choose(past)
		if p.Number != row.want || row.want == 0 && (!errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), "that was for every machine; name one with --to")) {
			t.Errorf("%s: version %d, %v; want %d", row.past, p.Number, err, row.want)
		}
	}
	if p, err := (RollbackSpec{ManifestSpec: ManifestSpec{Now: noon}, To: "b"}).choose([]Past{{Number: 1, Version: "b", Rollout: percent(0)}, {Number: 2, Version: "c"}}); p.Number != 1 {
		t.Errorf("a stopped release that --to names: version %d, %v", p.Number, err)
	}
}
