package machine

import (
	"path/filepath"
	"slices"
	"testing"

	"github.com/phaseboot/phaseboot/modes"
)

func TestTheEntriesOfTheMenu(t *testing.T) {
	texts := func(s settings) []string {
		var list []string
		for _, e := range s.entries() {
			list = append(list, e.Text)
		}
		return list
	}
	all := []string{"try again now", "another boot mode", "another channel", "the last good release", "network", "report of this boot", "save the report on the stick", "shell", "restart the machine", "kernel messages"}
	without := func(names ...string) []string {
		return slices.DeleteFunc(slices.Clone(all), func(n string) bool { return slices.Contains(names, n) })
	}
	for name, tt := range map[string]struct {
		settings
		want []string
	}{
		"a mode that may write":       {settings{mode: "local", cache: "rw"}, all},
		"a cache that is only read":   {settings{mode: "local", cache: "ro"}, without("save the report on the stick")},
		"private":                     {settings{mode: "private", cache: "off"}, without("save the report on the stick", "the last good release")},
		"a mode without a shell":      {settings{mode: "local", cache: "rw", noShell: true}, without("shell")},
		"the release was started":     {settings{target: true}, []string{"try again now", "network", "report of this boot", "shell", "restart the machine", "kernel messages"}},
		"a release without a console": {settings{target: true, noShell: true}, []string{"try again now", "network", "report of this boot", "restart the machine", "kernel messages"}},
	} {
		t.Run(name, func(t *testing.T) {
			if got := texts(tt.settings); !slices.Equal(got, tt.want) {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
	local := settings{mode: "local", channel: "beta"}
	if modes := local.entries()[1].Values; slices.Contains(modes, "local") || !slices.Contains(modes, "private") {
		t.Errorf("other modes: %q", modes)
	}
	if got := local.title(3); got != "Attempt 3 has failed: mode local, channel beta." {
		t.Error(got)
	}
}

// A mode of the image may be unknown to the release's phase-boot.
func TestTheModeOfATargetIsThatOfTheBoot(t *testing.T) {
	dir := t.TempDir()
	if got := handedMode(dir); got.Name != "" || got.NoShell {
		t.Errorf("%+v without a file", got)
	}
	write(t, filepath.Join(dir, reportName), `{"mode":"edge"}`)
	if got := handedMode(dir); got.Name != "edge" || !got.NoShell {
		t.Errorf("got %+v of an older boot", got)
	}
	for _, f := range modeFiles(modes.Mode{Name: "own", NoShell: true}) {
		write(t, filepath.Join(dir, f.name), string(f.data))
	}
	if got := handedMode(filepath.Join(dir, "missing"), dir); got.Name != "own" || !got.NoShell {
		t.Errorf("got %+v", got)
	}
}
