package imagebuild

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/phaseboot/phaseboot/cas"
)

var testSum = strings.Repeat("ab", 32)

func TestInputsHaveOneForm(t *testing.T) {
	line := func(name, arch string) string {
		return fmt.Sprintf("%s 1:2.3-4+b1 %s %s pool/main/x/%s_1.deb\n", name, arch, testSum, name)
	}
	good := line("busybox-static", "amd64") + line("busybox-static", "arm64") + line("ca-certificates", "all")
	in, err := ParseInputs([]byte("# comment\n\n" + good))
	if err != nil || len(in) != 3 || in.Text() != good {
		t.Fatalf("%v, %v", in, err)
	}
	if p, ok := in.find("ca-certificates", "arm64"); !ok || p.Version != "1:2.3-4+b1" {
		t.Errorf("a package of all architectures: %v", p)
	}
	if _, ok := in.find("busybox", "amd64"); ok {
		t.Error("a package that is not in the list")
	}
	for name, text := range map[string]string{
		"another order":        line("b2", "all") + line("a1", "all"),
		"a repeated line":      line("a1", "all") + line("a1", "all"),
		"another architecture": line("a1", "i386"),
		"a short digest":       "a1 1 all abcd pool/a.deb\n",
		"a capital digest":     strings.ToUpper(line("a1", "all")),
		"a path upwards":       "a1 1 all " + testSum + " pool/../../x.deb\n",
		"an absolute path":     "a1 1 all " + testSum + " /etc/x.deb\n",
		"an address":           "a1 1 all " + testSum + " http://192.0.2.1/x.deb\n",
		"an option":            "-o 1 all " + testSum + " pool/x.deb\n",
		"more fields":          "a1 1 all " + testSum + " pool/x.deb y\n",
		"a control character":  "a1 1\x1b all " + testSum + " pool/x.deb\n",
		"too long":             strings.Repeat("#", MaxInputs+1),
	} {
		if _, err := ParseInputs([]byte(text)); !errors.Is(err, cas.ErrCorrupt) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// FuzzInputs checks that an accepted list encodes back to the same packages.
func FuzzInputs(f *testing.F) {
	f.Add([]byte("# x\na1 1 all " + testSum + " pool/x.deb\n"))
	f.Add([]byte("a1 1 all " + testSum + " pool/x.deb\na1 1 amd64 " + testSum + " pool/x.deb"))
	f.Fuzz(func(t *testing.T, text []byte) {
		in, err := ParseInputs(text)
		if err != nil {
			if !errors.Is(err, cas.ErrCorrupt) {
				t.Error(err)
			}
			return
		}
		if again, err := ParseInputs([]byte(in.Text())); err != nil || again.Text() != in.Text() {
			t.Errorf("read again: %v, %v", again, err)
		}
	})
}

func TestTheKernelOfAFlavourIsFoundWithoutItsMetaPackage(t *testing.T) {
	var in Inputs
	for _, name := range []string{"linux-image-6.1.0-49-amd64", "linux-image-6.1.0-49-cloud-amd64", "linux-image-6.1.0-49-rt-amd64"} {
		in = in.with(Package{Name: name, Version: "1", Arch: "amd64"})
	}
	in = in.with(Package{Name: "linux-image-6.12.48+deb13-arm64", Version: "1", Arch: "arm64"})
	for _, c := range []struct{ arch, flavour, want string }{
		{"x86_64", "vm", "linux-image-6.1.0-49-cloud-amd64"},
		{"x86_64", "generic", "linux-image-6.1.0-49-amd64"},
		{"arm64", "generic", "linux-image-6.12.48+deb13-arm64"},
		{"arm64", "vm", ""},
	} {
		p, err := ParsePlatform(c.arch, c.flavour)
		if err != nil {
			t.Fatal(err)
		}
		if k, _ := in.kernel(p); k.Name != c.want {
			t.Errorf("%s %s: %q, want %q", c.arch, c.flavour, k.Name, c.want)
		}
	}
}

// A pinned package that no mirror has, or that is not in the list, ends the build with its name and the remedy.
// One in the cache is used even if the mirrors have dropped it.
func TestAPinnedPackageThatIsGoneIsNamed(t *testing.T) {
	b := emptyBuilder(t)
	gone := Package{"busybox-static", "0:1.0-gone", "amd64", testSum, "pool/main/b/busybox/busybox-static_1.0-gone_amd64.deb"}
	pinned := b.Pinned(Inputs{gone}, "x.lock", "renew it")
	for name, call := range map[string]func() error{
		"package busybox-static 0:1.0-gone (amd64): gone from the mirrors of this machine's apt; renew it": func() error { _, err := pinned.Busybox(t.Context(), "x86_64"); return err },
		"package tor (amd64): not in x.lock; renew it":                                                     func() error { _, err := pinned.resolve(t.Context(), "tor", "amd64"); return err },
		"package linux-image-cloud-amd64 (amd64): not in x.lock; renew it":                                 func() error { _, err := pinned.Kernel(t.Context(), testPlatform(t, "vm"), ""); return err },
	} {
		if err := call(); !errors.Is(err, ErrPinned) || !errors.Is(err, fs.ErrNotExist) || err.Error() != name {
			t.Errorf("got %v, want %s", err, name)
		}
	}
	dir := filepath.Join(b.cache, "unpacked", testSum, "bin")
	if err := errors.Join(os.MkdirAll(dir, 0o755), os.WriteFile(filepath.Join(dir, "busybox"), nil, 0o755)); err != nil {
		t.Fatal(err)
	}
	if path, err := pinned.Busybox(t.Context(), "x86_64"); err != nil || filepath.Dir(path) != dir {
		t.Errorf("%s, %v", path, err)
	}
}

// A pinned package is fetched by its path, whatever apt's lists say today, and has the digest of the list.
func TestAPinnedPackageIsFetchedByItsPath(t *testing.T) {
	b := emptyBuilder(t)
	d, err := b.candidate(t.Context(), "busybox-static", "amd64")
	if err != nil {
		t.Fatal(err)
	}
	in := Inputs{packageOf(d)}
	file, err := b.Pinned(in, "x.lock", "renew it").download(t.Context(), in[0].deb())
	if err != nil {
		t.Fatal(err)
	}
	if sum, err := sumFile(file); err != nil || sum != d.SHA256 {
		t.Errorf("%s, %v", sum, err)
	}
	in[0].SHA256 = testSum
	if _, err := b.Pinned(in, "x.lock", "renew it").download(t.Context(), in[0].deb()); err == nil {
		t.Error("a package with another digest was accepted")
	}
}

// The list of a root filesystem holds only as long as apt knows its versions.
func TestAPinnedPlanNeedsVersionsThatAptKnows(t *testing.T) {
	b := testBuilder(t)
	l, err := b.lists(t.Context(), "amd64")
	if err != nil {
		t.Fatal(err)
	}
	d, err := b.candidate(t.Context(), "busybox-static", "amd64")
	if err != nil {
		t.Fatal(err)
	}
	plan := []string{"busybox-static=0"} // of today
	pin := &pin{inputs: Inputs{packageOf(d)}, name: "x.lock", remedy: "renew it"}
	if got, err := pin.plan(t.Context(), l, plan); err != nil || len(got) != 1 || got[0] != "busybox-static="+d.Version {
		t.Errorf("%v, %v", got, err)
	}
	pin.inputs[0].SHA256 = testSum
	if _, err := pin.plan(t.Context(), l, plan); !errors.Is(err, ErrPinned) {
		t.Errorf("another content: %v", err)
	}
	pin.inputs[0].Version = "0:1.0-gone"
	if _, err := pin.plan(t.Context(), l, plan); !errors.Is(err, ErrPinned) || !strings.Contains(err.Error(), "busybox-static 0:1.0-gone (amd64): gone") {
		t.Errorf("another version: %v", err)
	}
	if _, err := pin.plan(t.Context(), l, []string{"adduser=3"}); !errors.Is(err, ErrPinned) {
		t.Errorf("not in the list: %v", err)
	}
}

// Firmware that apt knows is not left out in silence because a list does not have it. Of an image, the list says
// what was there.
func TestPinnedFirmwareIsThatOfTheList(t *testing.T) {
	b := testBuilder(t)
	known, err := b.resolveKnown(t.Context(), []string{freeFirmware})
	if err != nil || len(known) != 1 {
		t.Fatalf("%v, %v", known, err)
	}
	pinned := b.Pinned(nil, "x.lock", "renew it")
	if _, err := pinned.resolveKnown(t.Context(), []string{freeFirmware}); !errors.Is(err, ErrPinned) || !strings.Contains(err.Error(), "package "+freeFirmware+" ("+hostArch+"): not in x.lock") {
		t.Errorf("not in the list: %v", err)
	}
	pinned.pin.complete = true
	if found, err := pinned.resolveKnown(t.Context(), []string{freeFirmware}); err != nil || len(found) != 0 {
		t.Errorf("not in the list of an image: %v, %v", found, err)
	}
	recorder, used := b.Pinned(Inputs{packageOf(known[freeFirmware])}, "x.lock", "renew it").recording()
	if found, err := recorder.resolveKnown(t.Context(), []string{freeFirmware, "firmware-unknown"}); err != nil || len(found) != 1 || len(used.debs) != 1 {
		t.Errorf("in the list: %v, %v, recorded %v", found, err, used.debs)
	}
}
