package docs

import (
	"os"
	"os/exec"
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

// A person names a folder with keys of a real repository by mistake.
func TestTheDevelopmentRepositoryReplacesNoKeys(t *testing.T) {
	dir := t.TempDir()
	check(t, os.Mkdir(filepath.Join(dir, "keys"), 0o700))
	key := filepath.Join(dir, "keys", "root")
	check(t, os.WriteFile(key, []byte("secret"), 0o600))
	bin := t.TempDir() // its programs make empty files, as if they worked
	program := "#!/bin/sh\nfor out; do :; done\ncase $1 in key) : >\"$out\" ;; *) mkdir -p \"$3\" && : >\"$3/root.json\" ;; esac\n"
	check(t, os.WriteFile(filepath.Join(bin, "phase-sign"), []byte(program), 0o755))
	cmd := exec.Command("../scripts/dev-repo.sh", dir)
	cmd.Env = append(os.Environ(), "BIN="+bin)
	out, err := cmd.CombinedOutput()
	if err == nil || !strings.Contains(string(out), "keys: exists without") {
		t.Errorf("got %v: %s", err, out)
	}
	if data, err := os.ReadFile(key); err != nil || string(data) != "secret" {
		t.Errorf("the key: %q, %v", data, err)
	}
	out, err = exec.Command("env", "BIN="+bin, "../scripts/dev-repo.sh", filepath.Join(dir, "new")).CombinedOutput()
	if err != nil || !exists(filepath.Join(dir, "new/repo/root.json")) || !exists(filepath.Join(dir, "new/keys/root")) {
		t.Errorf("a new folder: %v: %s", err, out)
	}
}
