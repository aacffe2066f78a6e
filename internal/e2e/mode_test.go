package e2e

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// addMode runs the commands of ADDING-A-MODE.md on a host of the LAN, and returns their folder and their output.
func addMode(t *testing.T, h host) (dir, output string) {
	t.Helper()
	dir = t.TempDir()
	if err := os.Symlink(fx.path("repo"), filepath.Join(dir, "repo")); err != nil {
		t.Fatal(err)
	}
	script := "set -eux\n"
	for _, m := range regexp.MustCompile("(?s)```sh\n(.*?)```").FindAllStringSubmatch(string(readFile(t, "../../docs/ADDING-A-MODE.md")), -1) {
		script += m[1]
	}
	cmd := h.command("bash", "-c", script)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "PATH="+fx.path("bin")+":"+os.Getenv("PATH"))
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return dir, string(out)
}

// A sixth mode is a file alone: phase-boot fetch obeys it, and the image has it in its menu.
func TestTheCommandsOfAddingAModeWork(t *testing.T) {
	t.Parallel()
	l := newLAN(t)
	l.host().publish("--dht", "off")
	dir, output := addMode(t, l.host())
	for _, want := range []string{
		"showroom.img: 512 MiB", "(default showroom)", "* showroom", "phase.mode=showroom", "showroom   sha256 ", "from a file", "(mdns)",
	} {
		if !strings.Contains(output, want) {
			t.Errorf("no %q in\n%s", want, output)
		}
	}
	fetchResult{t: t, out: filepath.Join(dir, "fetched"), output: output}.wantSigned()
}
