package main

import (
	"maps"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// TestEveryVerbHasHelpWithAnExample asks each verb for its help, in both ways: it begins with
// a sentence about the verb, and its example is a command of phase-boot.
func TestEveryVerbHasHelpWithAnExample(t *testing.T) {
	example := regexp.MustCompile(`(?m)^Examples:\n  phase-boot \w+`)
	for _, verb := range append([]string{"fetch", "seed"}, slices.Sorted(maps.Keys(plainVerbs))...) {
		for _, args := range [][]string{{verb, "--help"}, {verb, "-h"}, {"help", verb}} {
			code, words := runs(t, nil, args...)
			if code != 0 || !strings.HasPrefix(words, "phase-boot "+verb+" ") || !example.MatchString(words) {
				t.Errorf("%q: exit code %d, want 0, a sentence and an example:\n%s", args, code, words)
			}
		}
	}
}
