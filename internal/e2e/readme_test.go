package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

// fenced returns the code blocks of one language in a part of the README.
func fenced(t *testing.T, language, from, to string) []string {
	t.Helper()
	text := string(readFile(t, "../../README.md"))
	_, text, ok := strings.Cut(text, from)
	if !ok {
		t.Fatalf("README.md: %q not found", from)
	}
	text, _, _ = strings.Cut(text, to)
	var blocks []string
	for _, m := range regexp.MustCompile("(?s)```"+language+"\n(.*?)```").FindAllStringSubmatch(text, -1) {
		blocks = append(blocks, m[1])
	}
	if len(blocks) == 0 {
		t.Fatalf("README.md: no %s block after %q", language, from)
	}
	return blocks
}

func TestTheCommandsOfTheREADMEWork(t *testing.T) {
	t.Parallel()
	script := "set -eux\ntrap 'kill $(jobs -p)' EXIT\n"
	for _, block := range fenced(t, "sh", "## By hand", "## The stick") {
		script += strings.ReplaceAll(block, "--ipns-key keys/ipns &", "--ipns-key keys/ipns >ready.json &\n"+
			"for try in $(seq 600); do [ -s ready.json ] || sleep 0.1; done")
	}
	l := newLAN(t) // a network of its own, because serve uses its default ports
	cmd := l.host().command("bash", "-c", script)
	cmd.Dir = t.TempDir()
	cmd.Env = append(os.Environ(), "BIN="+fx.path("bin"), "PATH="+fx.path("bin")+":"+os.Getenv("PATH"))
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
}

// TestDemo runs the demo and compares its console with the excerpt in the README.
func TestDemo(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	cmd := exec.Command("../../scripts/demo.sh")
	cmd.Env = append(os.Environ(), "DEMO_DIR="+dir, "BIN="+fx.path("bin"), "DEADLINE=1200")
	cmd.WaitDelay = 10 * time.Second
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	console := string(readFile(t, filepath.Join(dir, "console.log")))
	for _, line := range strings.Split(strings.TrimSpace(fenced(t, "console", "# Phase Boot", "The folders")[0]), "\n") {
		mark := milestone(line)
		at := strings.Index(console, mark)
		if at < 0 {
			t.Fatalf("the README shows %q; the console has no %q in this order", line, mark)
		}
		console = console[at+len(mark):]
	}
}

// milestone returns the part of a console line that is the same in every boot: the text up to
// the first colon, without the time and the process ID.
func milestone(line string) string {
	line = regexp.MustCompile(`^\[ *[0-9.]+s?\] `).ReplaceAllString(line, "] ")
	name, _, _ := strings.Cut(line, ": ")
	name, _, _ = strings.Cut(name, " {")
	name, _, _ = strings.Cut(name, " version ")
	return regexp.MustCompile(`\[[0-9]+\]$`).ReplaceAllString(name, "")
}
