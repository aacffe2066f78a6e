package machine

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

func TestArgumentsOfACommandLine(t *testing.T) {
	for name, tt := range map[string]struct {
		line     string
		want     Arguments
		warnings []string // parts of the warnings, in order
	}{
		"nothing": {line: "quiet ro\n"},
		"all": {
			line: `console=tty0 console=ttyS0,115200n8 phase.mode=local phase.channel=stable phase.cache=ro phase.nowrite phase.mirror=http://10.0.2.2:8080 phase.mirror=https://example.org/m phase.peer=/ip4/1.2.3.4/tcp/1/p2p/x phase.bootstrap=/ip4/1.2.3.4/tcp/2/p2p/y`,
			want: Arguments{
				Mode: "local", Channel: "stable", Cache: "ro", NoWrite: true,
				Mirrors: []string{"http://10.0.2.2:8080", "https://example.org/m"}, Peers: []string{"/ip4/1.2.3.4/tcp/1/p2p/x"},
				Bootstrap: []string{"/ip4/1.2.3.4/tcp/2/p2p/y"}, Console: []string{"tty0", "ttyS0,115200n8"},
			},
		},
		"the last mode wins":       {line: "phase.mode=local phase.mode=private", want: Arguments{Mode: "private"}},
		"nowrite can be taken off": {line: "phase.nowrite=0"},
		"unknown is warned about":  {line: "phase.mood=happy", warnings: []string{"phase.mood=happy"}},
		"a value is needed":        {line: "phase.mirror= phase.peer phase.mode", warnings: []string{"phase.mirror=", "phase.peer", "phase.mode"}},
		"inside quotes is no word": {line: `dyndbg="file x phase.mode=local +p"`},
		"quoted value":             {line: `phase.channel="beta"`, want: Arguments{Channel: "beta"}},
		"control characters":       {line: "phase.channel=a\x1b[2J", warnings: []string{"printable ASCII"}},
		"not ASCII":                {line: "phase.channel=стабильный", warnings: []string{"printable ASCII"}},
		"space in quotes":          {line: `phase.channel="a b"`, warnings: []string{"printable ASCII"}},
		"the target's own":         {line: "phase.release=1.2.3"},
	} {
		t.Run(name, func(t *testing.T) {
			got := ParseArguments(tt.line)
			if diff := cmp.Diff(tt.want, got, cmpopts.IgnoreFields(Arguments{}, "Warnings"), cmpopts.EquateEmpty()); diff != "" {
				t.Error(diff)
			}
			if len(got.Warnings) != len(tt.warnings) {
				t.Fatalf("warnings %q", got.Warnings)
			}
			for i, w := range tt.warnings {
				if !strings.Contains(got.Warnings[i], w) {
					t.Errorf("warning %q does not name %q", got.Warnings[i], w)
				}
			}
		})
	}
}

func TestRepeatedHintsAreBounded(t *testing.T) {
	got := ParseArguments(strings.Repeat("phase.mirror=http://a ", 1000))
	if len(got.Mirrors) != maxRepeats {
		t.Errorf("%d mirrors taken", len(got.Mirrors))
	}
}

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

func FuzzParseArguments(f *testing.F) {
	f.Add(`console=ttyS0 phase.mode=local "phase.mirror=http://x y" phase.nowrite`)
	f.Fuzz(func(t *testing.T, line string) {
		a := ParseArguments(line)
		for _, list := range [][]string{a.Mirrors, a.Peers, a.Bootstrap, {a.Mode, a.Channel, a.Cache}} {
			if len(list) > maxRepeats {
				t.Errorf("%d values", len(list))
			}
			for _, v := range list {
				if strings.ContainsFunc(v, func(r rune) bool { return r <= ' ' || r > '~' }) {
					t.Errorf("%q was taken", v)
				}
			}
		}
		if line, err := targetCmdline("quiet", "1", a.Console); err != nil || strings.ContainsAny(line, "\n\"") {
			t.Errorf("target line %q, %v", line, err)
		}
	})
}
