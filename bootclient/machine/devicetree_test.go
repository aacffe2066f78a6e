package machine

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/manifest"
)

func TestTheDeviceTreeOfAReleaseIsChosenByTheNamesOfTheMachine(t *testing.T) {
	release := manifest.Release{}
	for _, role := range []string{"dtb/vendor,board-b.dtb", "dtb/vendor,board.dtb", "dtb/other", "kernel"} {
		release.Artifacts = append(release.Artifacts, manifest.Artifact{Role: role})
	}
	for names, want := range map[string]string{
		"vendor,board-b\x00vendor,board\x00": "dtb/vendor,board-b.dtb",
		"vendor,board-c\x00vendor,board\x00": "dtb/vendor,board.dtb",
		"vendor,board":                       "dtb/vendor,board.dtb",
		"other\x00":                          "",
		"../kernel\x00":                      "",
		"\x00\x00":                           "",
		"":                                   "",
	} {
		file := filepath.Join(t.TempDir(), "compatible")
		if err := os.WriteFile(file, []byte(names), 0o600); err != nil {
			t.Fatal(err)
		}
		if got := deviceTreeOf(release, compatible(file)); got != want {
			t.Errorf("%q: %q, want %q", names, got, want)
		}
	}
	if names := compatible(filepath.Join(t.TempDir(), "absent")); names != nil {
		t.Errorf("a machine with ACPI: %q", names)
	}
}

// Only the device tree of this machine is loaded, and it is verified like every other artifact.
func TestTheChosenDeviceTreeIsSealedAndVerified(t *testing.T) {
	const role = "dtb/vendor,board.dtb"
	tree := noise(9, 5001)
	for name, written := range map[string][]byte{"as signed": tree, "changed": noise(8, 5001)} {
		release := releaseOf(map[string][]byte{"kernel": files["kernel"]})
		sum := sha256.Sum256(tree)
		for _, role := range []string{role, "dtb/vendor,other.dtb"} {
			release.Artifacts = append(release.Artifacts, manifest.Artifact{Role: role, Length: int64(len(tree)), SHA256: hex.EncodeToString(sum[:])})
		}
		p := NewPayload(nil, plenty)
		t.Cleanup(p.Abort)
		p.meminfo = func(string) int64 { return plenty }
		p.compatible = []string{"vendor,board-b", "vendor,board"}
		if err := p.Plan(release); err != nil {
			t.Fatal(err)
		}
		if target, err := p.Open("dtb/vendor,other.dtb", 5001); target != nil || err != nil {
			t.Errorf("%s: of another machine: %v, %v", name, target, err)
		}
		target, err := p.Open(role, 5001)
		if err != nil || target == nil {
			t.Fatalf("%s: %v, %v", name, target, err)
		}
		fill(t, p, map[string][]byte{"kernel": files["kernel"]})
		if _, err := target.WriteAt(written, 0); err != nil {
			t.Fatal(err)
		}
		err = p.commit(release, manifest.MachineSettings{}, newReport(io.Discard))
		if name == "as signed" && err != nil || name == "changed" && (!errors.Is(err, cas.ErrCorrupt) || !strings.Contains(err.Error(), role)) {
			t.Errorf("%s: %v", name, err)
		}
		if !bytes.Equal(content(t, p.tree), written) || p.Size() != int64(len(tree)+len(files["kernel"])) {
			t.Errorf("%s: %d bytes in memory", name, p.Size())
		}
		if _, err := p.tree.WriteAt([]byte("x"), 0); err == nil {
			t.Errorf("%s: the memory is not sealed", name)
		}
	}
}
