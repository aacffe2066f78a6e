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
		t.Fatalf("README.md has no %q", from)
	}
	text, _, _ = strings.Cut(text, to)
	var blocks []string
	for _, m := range regexp.MustCompile("(?s)```"+language+"\n(.*?)```").FindAllStringSubmatch(text, -1) {
		blocks = append(blocks, m[1])
	}
	if len(blocks) == 0 {
		t.Fatalf("README.md has no %s block after %q", language, from)
	}
	return blocks
}

func TestTheCommandsOfTheREADMEWorkAsTheyStand(t *testing.T) {
	t.Parallel()
	script := "set -eux\ntrap 'kill $(jobs -p)' EXIT\n"
	for _, block := range fenced(t, "sh", "## By hand", "## The stick") {
		script += strings.ReplaceAll(block, "--ipns-key keys/ipns &", "--ipns-key keys/ipns >ready.json &\n"+
			"for try in $(seq 600); do [ -s ready.json ] || sleep 0.1; done")
	}
	l := newLAN(t) // a network of its own, for the ports that serve takes by default
	cmd := l.host().command("bash", "-c", script)
	cmd.Dir = t.TempDir()
	cmd.Env = append(os.Environ(), "BIN="+fx.path("bin"), "PATH="+fx.path("bin")+":"+os.Getenv("PATH"))
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
}

// TestDemo runs the first command of the README, and holds its console against the
// excerpt that the README shows.
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
			t.Fatalf("the README shows %q; the console has no %q in its place", line, mark)
		}
		console = console[at+len(mark):]
	}
}

// milestone is what stays the same in a line of a console from boot to boot: the words up
// to the first colon, without the time and without the number of a process.
func milestone(line string) string {
	line = regexp.MustCompile(`^\[ *[0-9.]+s?\] `).ReplaceAllString(line, "] ")
	name, _, _ := strings.Cut(line, ": ")
	name, _, _ = strings.Cut(name, " {")
	name, _, _ = strings.Cut(name, " version ")
	return regexp.MustCompile(`\[[0-9]+\]$`).ReplaceAllString(name, "")
}
