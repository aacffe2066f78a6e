package machine

import (
	"bytes"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/internal/bootset"
	"github.com/phaseboot/phaseboot/internal/looptest"
	"github.com/phaseboot/phaseboot/manifest"
)

// withBootSet returns the small release with a boot set.
func withBootSet() (manifest.Release, map[string][]byte) {
	set := map[string][]byte{manifest.RoleBootKernel: noise(5, 5001), manifest.RoleBootInitramfs: noise(6, 6001)}
	r := releaseOf(files)
	for role, data := range set {
		a := releaseOf(map[string][]byte{"kernel": data}).Artifacts[0]
		a.Role = role
		r.Artifacts = append(r.Artifacts, a)
	}
	return r, set
}

func TestABootWithoutRenewalFetchesNoBootSet(t *testing.T) {
	r, set := withBootSet()
	p := NewPayload(nil, 1<<20) // has no room for the release
	p.meminfo = func(string) int64 { return plenty }
	if err := p.Plan(r); err == nil {
		t.Error("a release that is too large is accepted")
	}
	p = NewPayload(nil, plenty)
	p.meminfo = func(string) int64 { return plenty }
	if err := p.Plan(r); err != nil {
		t.Fatal(err)
	}
	for role, data := range set {
		if target, err := p.Open(role, int64(len(data))); target != nil || err != nil {
			t.Errorf("%s: %v, %v", role, target, err)
		}
	}
}

// A boot set is in memory of its own: kexec does not load it. It is sealed and compared with the manifest.
func TestABootSetIsSealedAndVerified(t *testing.T) {
	r, set := withBootSet()
	for _, damaged := range []string{"", manifest.RoleBootKernel, manifest.RoleBootInitramfs} {
		p := NewPayload(nil, plenty)
		p.renewal = &renewal{files: map[string]*artifact{}}
		fill(t, p, files)
		for role, data := range set {
			target, err := p.Open(role, int64(len(data)))
			if err != nil {
				t.Fatal(err)
			}
			data := bytes.Clone(data)
			if role == damaged {
				data[4000] ^= 1
			}
			if _, err := target.WriteAt(data, 0); err != nil {
				t.Fatal(err)
			}
		}
		err := p.commit(r, manifest.MachineSettings{}, newReport(io.Discard))
		if damaged == "" && err != nil || damaged != "" && (!errors.Is(err, cas.ErrCorrupt) || !strings.Contains(err.Error(), damaged)) {
			t.Errorf("damaged %q: %v", damaged, err)
		}
		if want := int64(len(files["kernel"]) + len(files["initramfs"]) + len(files["rootfs"])); p.Size() < want || p.Size() > want+5000 {
			t.Errorf("the payload has %d bytes, without the boot set about %d", p.Size(), want)
		}
		if damaged == "" {
			if _, err := p.renewal.files[manifest.RoleBootKernel].file.WriteAt([]byte{1}, 0); !errors.Is(err, unix.EPERM) {
				t.Errorf("sealed memory is written: %v", err)
			}
		}
		p.Abort()
	}
}

func TestAWriteProtectedStickIsLeftAsItIs(t *testing.T) {
	looptest.Need(t)
	image := filepath.Join(t.TempDir(), "esp")
	script := `truncate -s 34M "$1"; PATH=$PATH:/usr/sbin mkfs.vfat --invariant -F 32 -s 1 "$1"; mmd -i "$1" ::/loader ::/loader/entries ::/phase
		printf 'default local[._]*\n' >"$2"; mcopy -i "$1" "$2" ::/loader/loader.conf; printf 'title x\nlinux /phase/vmlinuz\n' >"$2"; mcopy -i "$1" "$2" ::/loader/entries/local.conf`
	if out, err := exec.Command("sh", "-euc", script, "sh", image, filepath.Join(t.TempDir(), "text")).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	before, err := os.ReadFile(image)
	if err != nil {
		t.Fatal(err)
	}
	never := func(*bootset.Stick) error { t.Error("it is opened"); return nil }
	protected := looptest.Attach(t, image, unix.LO_FLAGS_READ_ONLY)
	for _, write := range []bool{false, true} {
		if err := openStick(protected.Path, "x86_64", write, never); !errors.Is(err, errProtected) {
			t.Errorf("got %v", err)
		}
	}
	opened := false
	open := looptest.Attach(t, image, 0)
	if err := openStick(open.Path, "x86_64", true, func(*bootset.Stick) error { opened = true; return nil }); err != nil || !opened {
		t.Errorf("a stick that may be written: %v", err)
	}
	if after, err := os.ReadFile(image); err != nil || !bytes.Equal(before, after) {
		t.Errorf("it was changed, %v", err)
	}
}
