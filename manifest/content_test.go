package manifest

import (
	"slices"
	"strings"
	"testing"
)

// The same content is one content in every manifest that carries it: as the newest release, signed again for more
// machines, and as an earlier one, which has no boot set.
func TestContentIsWhatAMachineRuns(t *testing.T) {
	r := rolled()
	r.Bless, r.Earlier[0].Bless = 600, 30
	role, err := Encode(r)
	if err != nil {
		t.Fatal(err)
	}
	read := *mustOpen(t, sign(t, KindRole, role, "release-a")).Release()
	if read.Content() != r.Content() || read.Earlier[0].Content() != r.Earlier[0].Content() || read.Bless != 600 || read.Earlier[0].Bless != 30 {
		t.Errorf("after reading: %+v", read)
	}
	for name, same := range map[string]func(*Release){
		"signed again": func(r *Release) {
			r.Number, r.First, r.Rollout, r.SignedAt = r.Number+1, r.Number, nil, r.SignedAt.Add(1)
		},
		"another version":  func(r *Release) { r.Version = "again" },
		"in another order": func(r *Release) { slices.Reverse(r.Artifacts) },
		"with a boot set": func(r *Release) {
			r.Artifacts = append(r.Artifacts, Artifact{Role: RoleBootKernel, SHA256: strings.Repeat("9", 64)})
		},
		"other submitters":  func(r *Release) { r.Submitters = nil },
		"no earlier ones":   func(r *Release) { r.Earlier = nil },
		"another fall-back": func(r *Release) { r.FallbackFloor = 1 },
	} {
		c := r.clone()
		if same(&c); c.Content() != r.Content() {
			t.Errorf("%s: is another content", name)
		}
	}
	for name, other := range map[string]func(*Release){
		"another file":         func(r *Release) { r.Artifacts[0].SHA256 = strings.Repeat("9", 64) },
		"one file less":        func(r *Release) { r.Artifacts = r.Artifacts[1:] },
		"another command line": func(r *Release) { r.Cmdline += " quiet" },
		"a longer blessing":    func(r *Release) { r.Bless++ },
	} {
		c := r.clone()
		if other(&c); c.Content() == r.Content() {
			t.Errorf("%s: is the same content", name)
		}
	}
}

func TestATimeForTheBlessingIsBounded(t *testing.T) {
	for _, seconds := range []int64{-1, MaxBless + 1} {
		for name, set := range map[string]func(*Release){
			"of the newest":     func(r *Release) { r.Bless = seconds },
			"of an earlier one": func(r *Release) { r.Earlier[1].Bless = seconds },
		} {
			r := rolled()
			set(&r)
			if _, err := Encode(r); (err == nil) != (seconds < 0) { // none is written for a negative one
				t.Errorf("%s: %d seconds: %v", name, seconds, err)
			}
		}
	}
}
