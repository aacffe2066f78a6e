package manifest

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
)

// MaxBless is the longest time for the blessing that a release may give its target, in seconds.
const MaxBless = 24 * 60 * 60

const blessField = "bless"

// Content identifies what a machine runs with the release, 64 hex digits: a SHA-256 of the sorted SHA-256 of
// its artifacts, the command line, and the time for the blessing. The boot set is left out, because a boot does
// not load it and an earlier release has none. A manifest that is signed again for more machines keeps it.
func (r Release) Content() string {
	var sums []string
	for _, a := range r.Artifacts {
		if !IsBootSet(a.Role) {
			sums = append(sums, a.SHA256)
		}
	}
	slices.Sort(sums)
	h := sha256.New()
	fmt.Fprintf(h, "phaseboot content\x00%q\x00%q\x00%d", sums, r.Cmdline, r.Bless)
	return hex.EncodeToString(h.Sum(nil))
}

// encodeBless adds the field bless.
func (r Release) encodeBless(fields object) {
	if r.Bless > 0 {
		fields[blessField] = r.Bless
	}
}

// bless checks a field bless.
func (l *linter) bless(path string, fields object) {
	if v, ok := fields[blessField]; ok {
		l.integer(join(path, blessField), v, 1, MaxBless)
	}
}
