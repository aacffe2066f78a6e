package docs

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

var (
	keyOption = regexp.MustCompile(`--(?:online-key|ipns-key|key|root) ([a-z][a-z./-]*)`)
	oldKey    = regexp.MustCompile(`(?:key|--out) (?:root|release|online|ipns)[0-9]*\.key\b`)
	goFile    = regexp.MustCompile(`[a-z0-9_/]+\.go\b`)
)

// Commands about images name the keys and root.json as README makes them, so that they can be run after it.
func TestCommandsNameKeysAndRootAsReadmeDoes(t *testing.T) {
	for _, page := range []string{"NETBOOT.md", "RENEW.md", "SECURE-BOOT.md", "NETWORK.md", "GRUB.md", "REPRODUCIBLE.md", "KEYS.md"} {
		text, err := os.ReadFile(page)
		check(t, err)
		for _, m := range keyOption.FindAllStringSubmatch(string(text), -1) {
			if name := m[1]; name != "repo/root.json" && filepath.Dir(name) != "keys" {
				t.Errorf("%s: %s; README has keys/NAME and repo/root.json", page, m[0])
			}
		}
	}
}

// The examples of the commands name the keys as the documents do.
func TestHelpNamesKeysAsReadmeDoes(t *testing.T) {
	files, err := filepath.Glob("../cmd/phase-*/*.go")
	check(t, err)
	for _, path := range files {
		text, err := os.ReadFile(path)
		check(t, err)
		for _, m := range oldKey.FindAllString(string(text), -1) {
			if !strings.HasSuffix(path, "_test.go") {
				t.Errorf("%s: %s; README has keys/NAME", path, m)
			}
		}
	}
}

// Each Go file that the comment of a package names exists.
func TestFilesThatPackageCommentsNameExist(t *testing.T) {
	found := 0
	check(t, filepath.WalkDir("..", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.Name() != "doc.go" {
			return err
		}
		text, err := os.ReadFile(path)
		for _, name := range goFile.FindAllString(string(text), -1) {
			found++
			_, err1 := os.Stat(filepath.Join(filepath.Dir(path), name))
			_, err2 := os.Stat(filepath.Join("..", name))
			if errors.Is(err1, fs.ErrNotExist) && errors.Is(err2, fs.ErrNotExist) {
				t.Errorf("%s: %s does not exist", path, name)
			}
		}
		return err
	}))
	if found < 10 {
		t.Errorf("only %d names of files found", found)
	}
}
