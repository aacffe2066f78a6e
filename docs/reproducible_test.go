package docs

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// The commands of REPRODUCIBLE.md build an image, rebuild it, sign and demand statements.
func TestTheCommandsAboutRebuildsWork(t *testing.T) {
	text, err := os.ReadFile("REPRODUCIBLE.md")
	check(t, err)
	blocks := fence.FindAllStringSubmatch(string(text), -1)
	if len(blocks) != 3 {
		t.Fatalf("%d blocks of commands", len(blocks))
	}
	bin, dir := build(t), t.TempDir()
	run := func(script string) string {
		t.Helper()
		cmd := exec.Command("sh", "-euc", script)
		cmd.Dir = dir
		cmd.Env = append(os.Environ(), "PATH="+bin+":"+os.Getenv("PATH"), "BIN="+bin, "PHASE_KEY_PASSPHRASE=phrase")
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%v\n%s\n%s", err, script, out)
		}
		return string(out)
	}
	script, err := filepath.Abs("../scripts/dev-repo.sh")
	check(t, err)
	run(script + ` "$PWD/dev" && ln -s dev/repo repo`)
	run(blocks[0][1])
	run(blocks[1][1])
	if out := run(blocks[2][1]); strings.Count(out, " rebuilt the whole image (phase.efi.") != 2 {
		t.Errorf("verify: %s", out)
	}
}
