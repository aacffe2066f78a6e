package docs

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

var neededOption = regexp.MustCompile(`"(CONFIG_[A-Z0-9_]+)"`)

// CUSTOM-KERNEL.md lists every option without which phase-image refuses or warns, and no flag or
// command that phase-image does not have.
func TestTheDocumentOfKernelsNamesWhatThereIs(t *testing.T) {
	data, err := os.ReadFile("CUSTOM-KERNEL.md")
	check(t, err)
	text := string(data)
	needs, err := os.ReadFile("../imagebuild/kernelneeds.go")
	check(t, err)
	for _, m := range neededOption.FindAllStringSubmatch(string(needs), -1) {
		if !strings.Contains(text, "`"+m[1]+"`") {
			t.Errorf("no word of %s", m[1])
		}
	}
	image := filepath.Join(build(t), "phase-image")
	for _, m := range imageLine.FindAllStringSubmatch(text, -1) {
		out, err := exec.Command(image, m[1], "--help").CombinedOutput()
		check(t, err)
		for _, flag := range longFlag.FindAllString(m[2], -1) {
			if !strings.Contains(string(out), flag+" ") {
				t.Errorf("phase-image %s has no %s", m[1], flag)
			}
		}
	}
}
