package main

import (
	"maps"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// TestEveryVerbHasHelpWithAnExample: the help of each verb begins with a sentence about the verb and
// has an example that is a command of phase-boot.
func TestEveryVerbHasHelpWithAnExample(t *testing.T) {
	example := regexp.MustCompile(`(?m)^Examples:\n  phase-boot \w+`)
	for _, verb := range append([]string{"fetch", "seed", "watch", "switch", "report"}, slices.Sorted(maps.Keys(plainVerbs))...) {
		for _, args := range [][]string{{verb, "--help"}, {verb, "-h"}, {"help", verb}} {
			code, output := runPhaseBoot(t, nil, args...)
			if code != 0 || !strings.HasPrefix(output, "phase-boot "+verb+" ") || !example.MatchString(output) {
				t.Errorf("%q: exit code %d, want 0, a sentence and an example:\n%s", args, code, output)
			}
		}
	}
}
