package bootfile

import (
	"errors"
	"io/fs"
	"strings"
	"testing"
)

func TestUnknownArchitecturesAreRefusedWithASuggestion(t *testing.T) {
	for name, says := range map[string]string{
		"x86_64": "", "arm64": "",
		"amd64": "did you mean x86_64?", "AMD64": "did you mean x86_64?", "x86-64": "did you mean x86_64?", "X86_64": "did you mean x86_64?",
		"aarch64": "did you mean arm64?", "ARM64": "did you mean arm64?",
		"riscv64": "use x86_64 or arm64", "": "use x86_64 or arm64", "x86_64 ": "use x86_64 or arm64",
	} {
		err := CheckArch(name)
		if (err == nil) != (says == "") || err != nil && (!errors.Is(err, fs.ErrInvalid) || !strings.Contains(err.Error(), says)) {
			t.Errorf("%q: %v; want %q", name, err, says)
		}
	}
}
