package machine

import (
	"strings"
	"testing"

	"github.com/phaseboot/phaseboot/internal/bootargs"
)

func TestTheTargetGetsTheSignedCommandLineAndTheConsoles(t *testing.T) {
	both := []string{"tty0", "ttyS0,115200n8"}
	for name, tt := range map[string]struct {
		signed, version string
		consoles        []string
		missing         string // a device that is not in this machine
		want            string // "" for a refusal
	}{
		"signed alone":                {"quiet", "1.2", nil, "", "quiet panic=30 phase.release=1.2"},
		"nothing signed":              {"", "1.2", nil, "", "panic=30 phase.release=1.2"},
		"the release sets panic":      {"panic=0 quiet", "1.2", nil, "", "panic=0 quiet phase.release=1.2"},
		"another word with panic":     {"panic_on_oops=1", "1.2", nil, "", "panic_on_oops=1 panic=30 phase.release=1.2"},
		"panic= of init":              {"quiet -- panic=1", "1.2", nil, "", "quiet panic=30 phase.release=1.2 -- panic=1"},
		"boot consoles are copied":    {"quiet", "1.2", both, "", "quiet console=tty0 console=ttyS0,115200n8 panic=30 phase.release=1.2"},
		"a signed console is last":    {"console=ttyS1 quiet", "1.2", []string{"ttyS0"}, "", "console=ttyS0 console=ttyS1 quiet panic=30 phase.release=1.2"},
		"a signed console wins":       {"console=ttyS0,9600", "1.2", both, "", "console=tty0 console=ttyS0,9600 panic=30 phase.release=1.2"},
		"signed, and missing":         {"console=ttyS0,9600", "1.2", both, "ttyS0", "console=ttyS0,9600 console=tty0 panic=30 phase.release=1.2"},
		"of the boot, and missing":    {"quiet", "1.2", both, "ttyS0", "quiet console=tty0 panic=30 phase.release=1.2"},
		"only signed consoles":        {"console=ttyS0 phase.console=signed", "1.2", both, "", "console=ttyS0 phase.console=signed panic=30 phase.release=1.2"},
		"a console twice":             {"", "1.2", []string{"tty0", "tty0"}, "", "console=tty0 panic=30 phase.release=1.2"},
		"more than four consoles":     {"", "1", []string{"a", "b", "c", "d", "e"}, "", "console=a console=b console=c console=d panic=30 phase.release=1"},
		"not a console":               {"quiet", "1.2", []string{"ttyS0\ninit=/bin/sh", "", "../x", strings.Repeat("a", 33)}, "", "quiet panic=30 phase.release=1.2"},
		"arguments of init stay last": {"quiet -- single", "1.2", nil, "", "quiet panic=30 phase.release=1.2 -- single"},
		"a bare --":                   {"quiet --", "1.2", nil, "", "quiet panic=30 phase.release=1.2 --"},
		"-- first":                    {"-- single", "1.2", nil, "", "panic=30 phase.release=1.2 -- single"},
		"-- in quotes":                {`dyndbg="file a -- b" quiet -- single -- x`, "1.2", nil, "", `dyndbg="file a -- b" quiet panic=30 phase.release=1.2 -- single -- x`},
		"only -- in quotes":           {`a="x -- y"`, "1.2", nil, "", `a="x -- y" panic=30 phase.release=1.2`},
		"an unclosed quote":           {`dyndbg="a`, "1.2", nil, "", ""},
		"newline in the signed line":  {"quiet\ninit=/bin/sh", "1.2", nil, "", ""},
		"not ASCII":                   {"quiet é", "1.2", nil, "", ""},
		"a version with a space":      {"quiet", "1.2 init=/bin/sh", nil, "", ""},
		"a version that opens quotes": {"quiet", `1"2`, nil, "", ""},
		"no version":                  {"quiet", "", nil, "", ""},
		"too long":                    {strings.Repeat("a", maxCmdline), "1", nil, "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			present := func(device string) bool { return device != tt.missing }
			got, err := targetCmdline(tt.signed, tt.version, bootargs.Arguments{Console: tt.consoles}, present)
			if (err != nil) != (tt.want == "") || got != tt.want {
				t.Errorf("got %q, %v; want %q", got, err, tt.want)
			}
		})
	}
}

func FuzzTheLocalPartOfTheCommandLine(f *testing.F) {
	f.Add(`console=ttyS0 panic=7 nomodeset phase.target=a phase.mode=local "phase.mirror=http://x y" phase.nowrite`)
	f.Fuzz(func(t *testing.T, line string) {
		if line, err := targetCmdline("quiet", "1", bootargs.Parse(line), func(string) bool { return true }); err != nil || strings.ContainsAny(line, "\n\"") {
			t.Errorf("target line %q, %v", line, err)
		}
	})
}

// The local part has only what is on the list, and nothing that the release sets.
func TestTheLocalPartOfTheCommandLine(t *testing.T) {
	for name, tt := range map[string]struct{ boot, signed, want string }{
		"panic":                    {"panic=90", "quiet", "quiet panic=90 phase.release=1"},
		"panic of the release":     {"panic=90", "panic=5", "panic=5 phase.release=1"},
		"panic that halts":         {"panic=0", "quiet", "quiet panic=30 phase.release=1"},
		"panic that loops":         {"panic=-1", "quiet", "quiet panic=30 phase.release=1"},
		"nomodeset":                {"nomodeset", "quiet", "quiet nomodeset panic=30 phase.release=1"},
		"nomodeset twice":          {"nomodeset", "nomodeset", "nomodeset panic=30 phase.release=1"},
		"for the target":           {"phase.target=site=berlin phase.target=rack:7", "quiet", "quiet panic=30 phase.target=site=berlin phase.target=rack:7 phase.release=1"},
		"signed for the target":    {"phase.target=site=berlin", "phase.target=site=rome", "phase.target=site=rome panic=30 phase.release=1"},
		"before arguments of init": {"phase.target=a", "quiet -- single", "quiet panic=30 phase.target=a phase.release=1 -- single"},
		"two words in one":         {`phase.target="a init=/bin/sh"`, "quiet", "quiet panic=30 phase.release=1"},
		"an option":                {"phase.target=--", "quiet", "quiet panic=30 phase.release=1"},
		"not on the list":          {"init=/bin/sh rdinit=/bin/sh mem=1G nokaslr systemd.unit=rescue.target quiet phase.mode=local", "", "panic=30 phase.release=1"},
		"a version of a release":   {"phase.release=9", "", "panic=30 phase.release=1"},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := targetCmdline(tt.signed, "1", bootargs.Parse(tt.boot), func(string) bool { return true })
			if err != nil || got != tt.want {
				t.Errorf("got %q, %v; want %q", got, err, tt.want)
			}
		})
	}
}
