package main

import (
	"strings"
	"testing"

	"github.com/phaseboot/phaseboot/manifest"
	"github.com/phaseboot/phaseboot/publisher/store"
)

func TestStatusSaysWhichMachinesTakeARelease(t *testing.T) {
	t.Parallel()
	half := 50
	r := manifest.Release{
		Channel: "stable", Arch: "x86_64", Version: "v2", Number: 7, First: 2, FallbackFloor: 1,
		Rollout: &manifest.Rollout{Percent: &half, Groups: []string{"canary"}, Hold: []string{"lab"}},
		Earlier: []manifest.Release{{Channel: "stable", Arch: "x86_64", Version: "v1", Number: 1}},
	}
	text := statusWords(store.Status{Pointer: "bafy", Releases: []manifest.Release{r}})
	for _, line := range []string{
		"release    stable/x86_64: v2, version 7, ",
		"rollout    stable/x86_64: v2, number 2, for 50 % of the machines and group canary, without group lab\n",
		"floor      stable/x86_64: no machine falls back to a number below 1\n",
		"earlier    stable/x86_64: v1, number 1, for machines that do not take v2\n",
	} {
		if !strings.Contains(text, line) {
			t.Errorf("no line %q in:\n%s", line, text)
		}
	}
	r.Rollout, r.FallbackFloor = nil, 0
	if text := statusWords(store.Status{Pointer: "bafy", Releases: []manifest.Release{r}}); strings.Contains(text, "rollout ") || strings.Contains(text, "floor ") {
		t.Errorf("a release for every machine:\n%s", text)
	}
}
