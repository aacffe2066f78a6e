package docs

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/phaseboot/phaseboot/imagebuild/diskformat"
)

var (
	imageLine = regexp.MustCompile("phase-image ([a-z0-9]+)([^`\n|]*)")
	longFlag  = regexp.MustCompile(`--[a-z-]+`)
)

// QUICKSTART-VM.md names every format, and no command or flag that phase-image does not have.
func TestTheQuickstartOfVirtualMachinesNamesWhatThereIs(t *testing.T) {
	text, err := os.ReadFile("QUICKSTART-VM.md")
	check(t, err)
	image, help, found := filepath.Join(build(t), "phase-image"), map[string]string{}, []string{}
	for _, m := range imageLine.FindAllStringSubmatch(string(text), -1) {
		verb := m[1]
		if help[verb] == "" {
			out, err := exec.Command(image, verb, "--help").CombinedOutput()
			if err != nil || !strings.Contains(string(out), "phase-image "+verb) {
				t.Fatalf("phase-image %s: %v\n%s", verb, err, out)
			}
			help[verb] = string(out)
		}
		found = append(found, verb)
		for _, flag := range longFlag.FindAllString(m[2], -1) {
			if !strings.Contains(help[verb], flag+" ") {
				t.Errorf("phase-image %s has no %s", verb, flag)
			}
		}
	}
	for _, format := range diskformat.Formats {
		if !slices.Contains(found, format.Name) {
			t.Errorf("no line of %s", format.Name)
		}
	}
	if !slices.Contains(found, "iso") || !slices.Contains(found, "verify") {
		t.Error("no line of iso or verify")
	}
}
