package machine

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/phaseboot/phaseboot/internal/bootargs"
	"github.com/phaseboot/phaseboot/manifest"
)

func TestUUIDOfFirmware(t *testing.T) {
	for text, want := range map[string]string{
		"4C4C4544-0043-3510-8052-B4C04F4E4D32\n": "4c4c4544-0043-3510-8052-b4c04f4e4d32",
		"4c4c4544-0043-3510-8052-b4c04f4e4d32":   "4c4c4544-0043-3510-8052-b4c04f4e4d32",
		"00000000-0000-0000-0000-000000000000\n": "",
		"FFFFFFFF-FFFF-FFFF-FFFF-FFFFFFFFFFFF\n": "",
		"03000200-0400-0500-0006-000700080009\n": "",
		"Not Settable\n":                         "",
		"":                                       "",
		"4c4c4544004335108052b4c04f4e4d32":       "",
	} {
		path := filepath.Join(t.TempDir(), "product_uuid")
		if err := os.WriteFile(path, []byte(text), 0o444); err != nil {
			t.Fatal(err)
		}
		if got := systemUUID(path); got != want {
			t.Errorf("%q: %q, want %q", text, got, want)
		}
	}
	if got := systemUUID(filepath.Join(t.TempDir(), "none")); got != "" {
		t.Errorf("no file: %q", got)
	}
}

func TestMachineIDIsAHashAndNothingIsNone(t *testing.T) {
	if got := machineID(""); got != "" {
		t.Errorf("nothing: %q", got)
	}
	// sha256sum of "phaseboot machine", a NUL and the text
	const want = "b6ba107e79aef66876d73fa7ffb843331beea23135bfb3998693eb65661d7be4"
	if got := machineID("52:54:00:12:34:56"); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestFirstCard(t *testing.T) {
	usb := card{"/sys/devices/pci0000:00/0000:00:01.0/usb1/1-1", "1"}
	late := card{"/sys/devices/pci0000:00/0000:00:1f.6", "2"}
	early := card{"/sys/devices/pci0000:00/0000:00:03.0", "3"}
	platform := card{"/sys/devices/platform/soc/ethernet", "4"}
	for _, row := range []struct {
		cards []card
		want  card
	}{
		{nil, card{}},
		{[]card{usb}, usb},
		{[]card{usb, late}, late},
		{[]card{usb, platform, late, early}, early},
		{[]card{usb, platform}, platform},
	} {
		for range 2 {
			if got := firstCard(row.cards); got != row.want {
				t.Errorf("%v: %v", row.cards, got)
			}
			slices.Reverse(row.cards)
		}
	}
}

// The card of this machine, if it has one: the test of the real interface.
func TestFirstMACOfThisMachine(t *testing.T) {
	if mac := firstCard(ethernetCards(netDir)).mac; mac != "" && !regexp.MustCompile(`^([0-9a-f]{2}:){5,}[0-9a-f]{2}$`).MatchString(mac) {
		t.Errorf("%q", mac)
	}
}

// The command line accepts the groups that a manifest can name.
func TestGroupsOfTheCommandLineAreThoseOfManifests(t *testing.T) {
	for _, name := range []string{"", "a", "0", "lab", "rack-7_b", "-a", "_a", "A", "a.b", "a b", "a,b", "ä", strings.Repeat("a", 32), strings.Repeat("a", 33)} {
		if a, b := bootargs.CheckGroup(name), manifest.CheckGroup(name); (a == nil) != (b == nil) {
			t.Errorf("%q: %v and %v", name, a, b)
		}
	}
}
