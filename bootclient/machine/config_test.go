package machine

import (
	"testing"

	"github.com/phaseboot/phaseboot/internal/bootargs"
)

func TestTheCommandLineReplacesThePolicyForStaleMetadata(t *testing.T) {
	for line, want := range map[string]string{
		"phase.mode=local":                                 "refuse",
		"phase.mode=local phase.stale=last-good":           "last-good",
		"phase.mode=edge":                                  "last-good",
		"phase.mode=edge phase.stale=refuse":               "refuse",
		"phase.mode=edge phase.stale=never":                "last-good", // a mistake; it is reported
		"phase.mode=private phase.stale=last-good":         "last-good", // without a cache it has no effect
		"phase.stale=last-good phase.mode=local phase.ip=": "last-good",
	} {
		if m, err := bootMode(bootargs.Parse(line)); err != nil || m.Stale != want {
			t.Errorf("%s: %q, %v", line, m.Stale, err)
		}
	}
}

func TestTheCommandLineOnlyReducesTheRightsToTheCache(t *testing.T) {
	for name, tt := range map[string]struct {
		args bootargs.Arguments
		want string // "" for a refusal
	}{
		"the mode alone":                 {bootargs.Arguments{Mode: "local"}, "rw"},
		"no mode is the default":         {bootargs.Arguments{}, "rw"},
		"reduced":                        {bootargs.Arguments{Mode: "local", Cache: "off"}, "off"},
		"never extended":                 {bootargs.Arguments{Mode: "private", Cache: "rw"}, "off"},
		"nowrite is read-only":           {bootargs.Arguments{Mode: "local", NoWrite: true}, "ro"},
		"nowrite wins":                   {bootargs.Arguments{Mode: "local", NoWrite: true, Cache: "rw"}, "ro"},
		"unknown right":                  {bootargs.Arguments{Cache: "maybe"}, ""},
		"unknown mode names the others:": {bootargs.Arguments{Mode: "party"}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			m, err := bootMode(tt.args)
			if (err != nil) != (tt.want == "") || err == nil && m.Cache != tt.want {
				t.Errorf("cache %q, %v", m.Cache, err)
			}
		})
	}
}
