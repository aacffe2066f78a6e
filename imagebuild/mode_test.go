package imagebuild

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/modes"
)

// labMode is a mode that is not shipped.
const labMode = `{"name":"lab","title":"Lab (mDNS only)","discovery":["mdns"],"cache":"off","identity":"ephemeral","announce":true,"proxy":"","stale":"refuse","random_mac":false}` + "\n"

func withLab(t *testing.T, text string) (set modes.Set) {
	t.Helper()
	set, err := set.Add("lab.json", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return set
}

func TestFormatAModeFromAFileGetsAnEntry(t *testing.T) {
	tree := &espTree{files: map[string][]byte{}}
	m := Media{Initramfs: Initramfs{Platform: testPlatform(t, "vm"), Modes: withLab(t, labMode)}, DefaultMode: "lab"}
	if err := tree.addEntries(m); err != nil {
		t.Fatal(err)
	}
	e, err := readBootEntry(m.Platform.architecture, "lab", string(tree.files[entriesPath+"/lab.conf"]))
	if err != nil || e.Boots != "lab" || e.Title != "Lab (mDNS only)" {
		t.Errorf("%+v, %v", e, err)
	}
	if mode, err := readMenu(string(tree.files[menuPath])); mode != "lab" || err != nil {
		t.Errorf("menu starts %q, %v", mode, err)
	}
}

func TestFormatModesAreCheckedBeforeABuild(t *testing.T) {
	tor := strings.NewReplacer(`"announce":true`, `"announce":false,"tor":true`, `"proxy":""`, `"proxy":"socks5://127.0.0.1:9050"`).Replace(labMode)
	plain, through := Initramfs{Role: RoleBoot, Modes: withLab(t, labMode)}, Initramfs{Role: RoleBoot, Modes: withLab(t, tor)}
	if err := errors.Join(plain.checkModes("lab", "phase.mode=lab"), plain.checkTor("lab", ""), plain.checkModes("", "")); err != nil {
		t.Error(err)
	}
	for name, err := range map[string]error{
		"unknown":                   plain.checkModes("nolab", ""),
		"unknown on a command line": plain.checkModes("lab", "phase.mode=nolab"),
		"needs Tor":                 through.checkTor("", ""),
	} {
		if !errors.Is(err, fs.ErrInvalid) || !strings.Contains(err.Error(), "lab") {
			t.Errorf("%s: %v", name, err)
		}
	}
	through.WithTor = true
	if err := through.checkTor("lab", ""); err != nil {
		t.Error(err)
	}
	if _, err := (Initramfs{Role: RoleTarget, Modes: plain.Modes}).check(); !errors.Is(err, fs.ErrInvalid) {
		t.Errorf("role target: %v", err)
	}
}

func TestFormatVerifyNamesTheModesOfAnImage(t *testing.T) {
	other := strings.Replace(mustShipped("private"), `"announce": false`, `"announce": true`, 1)
	file := func(name, text string) string { return fileMember(modesPath+"/"+name+".json", text) }
	archive := zstdOf(t, archiveWith(t, dirMember(modesPath)+file("internet", mustShipped("internet"))+file("lab", labMode)+file("private", other)))
	name := filepath.Join(t.TempDir(), "initramfs")
	if err := os.WriteFile(name, archive, 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := testBuilder(t).Verify(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, m := range c.Modes {
		got = append(got, m.Name+" "+m.Shipped)
	}
	if want := []string{"internet yes", "lab no", "private other"}; !slices.Equal(got, want) {
		t.Errorf("modes %v, want %v", got, want)
	}
	own, err := c.ownModes()
	if err != nil || !slices.Equal(own.Own(), []string{"lab"}) {
		t.Errorf("a rebuild takes %v, %v", own.Own(), err)
	}
	for mode, want := range map[string]error{"lab": nil, "private": nil, "local": cas.ErrCorrupt, "nolab": cas.ErrCorrupt} {
		c.Entries = []BootEntry{{Mode: "x", Boots: mode}}
		if err := c.checkEntries(); !errors.Is(err, want) {
			t.Errorf("an entry in mode %s: %v, want %v", mode, err, want)
		}
	}
}

// The number is refused before the files are kept in memory.
func TestFormatAnArchiveWithManyModesIsRefused(t *testing.T) {
	members := dirMember(modesPath)
	for i := range modes.MaxModes + 1 {
		members += fileMember(fmt.Sprintf("%s/lab%02d.json", modesPath, i), labMode)
	}
	archive := zstdOf(t, archiveWith(t, members))
	if _, err := readSettings(bytes.NewReader(archive), int64(len(archive))); !errors.Is(err, cas.ErrCorrupt) || !strings.Contains(err.Error(), "more than 32 boot modes") {
		t.Errorf("got %v", err)
	}
}

func TestFormatARebuildTakesTheCommandLineWhateverTheTitle(t *testing.T) {
	p := testPlatform(t, "vm")
	_, options, _ := strings.Cut(p.entry("", "local", 1, "phase.retry=3 quiet"), "options ")
	c := &Contents{System: System{Arch: p.Arch, Modules: "6.1-cloud"}, Entries: []BootEntry{{Mode: "local", Title: "LAN, more options below", Cmdline: strings.TrimSpace(options)}}}
	m, err := c.media(Rebuild{PhaseBoot: func(string) (string, error) { return "phase-boot", nil }})
	if err != nil || m.Cmdline != "phase.retry=3 quiet" {
		t.Errorf("command line %q, %v", m.Cmdline, err)
	}
}

func TestFormatAnImageOfAnEarlierVersionHasTheShippedModes(t *testing.T) {
	c := &Contents{}
	for mode, want := range map[string]error{"local": nil, "lab": cas.ErrCorrupt, "tor": cas.ErrCorrupt} {
		c.Entries = []BootEntry{{Mode: "x", Boots: mode}}
		if err := c.checkEntries(); !errors.Is(err, want) {
			t.Errorf("an entry in mode %s: %v, want %v", mode, err, want)
		}
	}
}

func TestAModeFromAFileIsInTheImageAndItsRebuild(t *testing.T) {
	b, image := testBuilder(t), filepath.Join(t.TempDir(), "esp.img")
	media := testMedia(t, b)
	media.Modes, media.DefaultMode = withLab(t, labMode), "lab"
	if _, err := b.WriteESP(t.Context(), media, image); err != nil {
		t.Fatal(err)
	}
	c, err := b.Verify(t.Context(), image)
	if err != nil {
		t.Fatal(err)
	}
	if want := media.Modes.Available(false); len(c.Modes) != len(want) || len(c.Entries) != len(want) || c.Default != "lab" {
		t.Errorf("modes %v, entries %v, want %v", c.Modes, c.Entries, want)
	}
	r := Rebuild{PhaseBoot: func(string) (string, error) { return media.PhaseBoot, nil }}
	if err := b.CompareRebuild(t.Context(), c, r); err != nil {
		t.Error(err)
	}
}
