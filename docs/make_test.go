package docs

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// The targets and scripts that README.md and the quick starts name exist. make's default target
// builds all parts.
func TestTheNamedTargetsAndScriptsExist(t *testing.T) {
	makefile, err := os.ReadFile("../Makefile")
	check(t, err)
	var targets []string
	for _, m := range regexp.MustCompile(`(?m)^([a-z][a-z0-9_ -]*):(?:[^=]|$)`).FindAllStringSubmatch(string(makefile), -1) {
		targets = append(targets, strings.Fields(m[1])...)
	}
	quick, err := filepath.Glob("QUICKSTART-*.md")
	check(t, err)
	named := 0
	for _, name := range append(quick, "../README.md") {
		text, err := os.ReadFile(name)
		check(t, err)
		for _, m := range regexp.MustCompile("(?m)(?:^|`)make((?: [A-Za-z0-9_=/.-]+)*)").FindAllStringSubmatch(string(text), -1) {
			for _, word := range strings.Fields(m[1]) {
				if named++; !strings.Contains(word, "=") && !slices.Contains(targets, word) {
					t.Errorf("%s: make %s: no such target", name, word)
				}
			}
		}
		for _, m := range regexp.MustCompile(`scripts/[a-z0-9-]+\.sh`).FindAllString(string(text), -1) {
			if named++; !exists(filepath.Join("..", m)) {
				t.Errorf("%s: no %s", name, m)
			}
		}
	}
	if named < 30 {
		t.Errorf("only %d targets and scripts are named", named)
	}
	for _, part := range []string{"esp", "initramfs", "rootfs", "image"} {
		if m := regexp.MustCompile(`(?m)^all: (.*) ##`).FindSubmatch(makefile); m == nil || !slices.Contains(strings.Fields(string(m[1])), part) {
			t.Errorf("plain make does not build %s", part)
		}
	}
}

func exists(name string) bool { _, err := os.Stat(name); return err == nil }
