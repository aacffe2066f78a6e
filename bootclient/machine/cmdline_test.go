package machine

import (
	"strings"
	"testing"

	"github.com/phaseboot/phaseboot/internal/bootargs"
)

func TestTargetCommandLine(t *testing.T) {
	for name, tt := range map[string]struct {
		signed, version string
		consoles        []string
		want            string // "" for a refusal
	}{
		"signed alone":                {"quiet", "1.2", nil, "quiet phase.release=1.2"},
		"nothing signed":              {"", "1.2", nil, "phase.release=1.2"},
		"boot consoles are copied":    {"quiet", "1.2", []string{"tty0", "ttyS0,115200n8"}, "quiet console=tty0 console=ttyS0,115200n8 phase.release=1.2"},
		"a signed console stays":      {"console=ttyS1 quiet", "1.2", []string{"ttyS0"}, "console=ttyS1 quiet phase.release=1.2"},
		"not a console":               {"quiet", "1.2", []string{"ttyS0\ninit=/bin/sh", "", "../x", strings.Repeat("a", 33)}, "quiet phase.release=1.2"},
		"before the words of init":    {"quiet -- single", "1.2", nil, "quiet phase.release=1.2 -- single"},
		"a bare end":                  {"quiet --", "1.2", nil, "quiet phase.release=1.2 --"},
		"a quote without an end":      {`dyndbg="a`, "1.2", nil, ""},
		"newline in the signed line":  {"quiet\ninit=/bin/sh", "1.2", nil, ""},
		"not ASCII":                   {"quiet é", "1.2", nil, ""},
		"a version with a space":      {"quiet", "1.2 init=/bin/sh", nil, ""},
		"a version that opens quotes": {"quiet", `1"2`, nil, ""},
		"no version":                  {"quiet", "", nil, ""},
		"too long":                    {strings.Repeat("a", maxCmdline), "1", nil, ""},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := targetCmdline(tt.signed, tt.version, tt.consoles)
			if (err != nil) != (tt.want == "") || got != tt.want {
				t.Errorf("got %q, %v; want %q", got, err, tt.want)
			}
		})
	}
}

func FuzzConsolesOfTheTarget(f *testing.F) {
	f.Add(`console=ttyS0 phase.mode=local "phase.mirror=http://x y" phase.nowrite`)
	f.Fuzz(func(t *testing.T, line string) {
		if line, err := targetCmdline("quiet", "1", bootargs.Parse(line).Console); err != nil || strings.ContainsAny(line, "\n\"") {
			t.Errorf("target line %q, %v", line, err)
		}
	})
}
