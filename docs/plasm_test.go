package docs

import (
	"os"
	"strings"
	"testing"
)

// TestTheCommandsOfPlasmWorkAsTheyStand runs the commands of PLASM.md after those of "By hand", whose files are small stand-ins that only an unchecked release takes.
func TestTheCommandsOfPlasmWorkAsTheyStand(t *testing.T) {
	text, err := os.ReadFile("PLASM.md")
	check(t, err)
	use, _, _ := strings.Cut(string(text), "## Receipt v2") // its commands need files of their own
	script := beforehand
	for _, m := range fence.FindAllStringSubmatch(use, -1) {
		script += strings.ReplaceAll(m[1], "phase-sign release ", "phase-sign release --unchecked ")
	}
	if strings.Count(script, "plasmd submit") < 4 {
		t.Fatal("PLASM.md submits fewer than four jobs")
	}
	script += `
grep -q '"stdout":"SEVMTE8' results.json
test "$(plasmd logs --machine "$MACHINE" "$(basename receipts/*.json .json)")" = "HELLO "
grep -qx "hello " lower.txt
grep -q "application/vnd.in-toto+json" receipt.json
kill $publisher $daemon
`
	work(t, script, "publisher.log", "daemon.log")
}
