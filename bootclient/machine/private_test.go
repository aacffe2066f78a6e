package machine

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/phaseboot/phaseboot/modes"
)

func TestATargetOfAPrivateModeIsKeptPrivate(t *testing.T) {
	for _, name := range modes.Names() {
		t.Run(name, func(t *testing.T) {
			mode, err := modes.Load(name)
			if err != nil {
				t.Fatal(err)
			}
			dir, run := t.TempDir(), t.TempDir()
			for _, f := range modeFiles(mode) {
				path := filepath.Join(dir, f.name)
				if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(path, f.data, os.FileMode(f.perm)); err != nil {
					t.Fatal(err)
				}
			}
			var handed modes.Mode
			data, err := os.ReadFile(filepath.Join(dir, "mode.json"))
			if err == nil {
				err = json.Unmarshal(data, &handed)
			}
			if err != nil || handed.Name != name || handed.RandomMAC != mode.RandomMAC {
				t.Errorf("the target got mode %+v, %v", handed, err)
			}
			_, _ = placePrivate(filepath.Join(dir, privateDir), run) // an attempt that failed later
			private, err := placePrivate(filepath.Join(dir, privateDir), run)
			if err != nil || private != mode.RandomMAC {
				t.Fatalf("private is %t, %v", private, err)
			}
			if !private {
				if left, _ := os.ReadDir(run); len(left) > 0 {
					t.Errorf("it wrote %v", left)
				}
				return
			}
			for file, want := range map[string]string{
				"systemd/network/10-phase.link": "\nMACAddressPolicy=random\n", "systemd/network/10-phase.network": "\nAnonymize=yes\n",
			} {
				if text, err := os.ReadFile(filepath.Join(run, file)); err != nil || !strings.Contains(string(text), want) {
					t.Errorf("%s: %q, %v", file, text, err)
				}
			}
			if to, err := os.Readlink(filepath.Join(run, gptGenerator)); err != nil || to != os.DevNull {
				t.Errorf("the generator that mounts disks is %q, %v", to, err)
			}
		})
	}
}
