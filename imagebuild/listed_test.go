package imagebuild

import (
	"errors"
	"io/fs"
	"slices"
	"strings"
	"testing"

	"github.com/phaseboot/phaseboot/manifest"
)

// The list of an image names packages of Debian: name, version, architecture and content are those of a signed list, or
// of a list that the rebuilder trusts.
func TestAttackAnImageThatListsAPackageOfItsOwn(t *testing.T) {
	b := testBuilder(t)
	var good Inputs
	for _, name := range []string{"busybox-static", "ca-certificates"} { // one of every architecture
		d, err := b.candidate(t.Context(), name, "amd64")
		if err != nil {
			t.Fatal(err)
		}
		good = good.with(packageOf(d))
	}
	moved := slices.Clone(good)
	moved[0].Path = "pool/elsewhere.deb"
	for _, in := range []Inputs{nil, good, moved} {
		if err := b.checkListed(t.Context(), in, nil); err != nil {
			t.Errorf("%v: %v", in, err)
		}
	}
	for name, change := range map[string]func(*Package){
		"another name":                   func(p *Package) { p.Name = "busybox-phase" },
		"another version":                func(p *Package) { p.Version = "1:99" },
		"another content":                func(p *Package) { p.SHA256 = testSum },
		"another architecture":           func(p *Package) { p.Arch = "all" },
		"the content of another package": func(p *Package) { p.SHA256 = good[1].SHA256 },
	} {
		evil := slices.Clone(good)
		change(&evil[0])
		err := b.checkListed(t.Context(), evil, nil)
		want := "package " + evil[0].Name + " " + evil[0].Version + " (" + evil[0].Arch + ") with sha256 " + evil[0].SHA256 + ": not in a list"
		if !errors.Is(err, manifest.ErrUntrusted) || !strings.HasPrefix(err.Error(), want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: %v", name, err)
		}
		if err := b.checkListed(t.Context(), evil, good); !errors.Is(err, manifest.ErrUntrusted) {
			t.Errorf("%s, beside a list without it: %v", name, err)
		}
		if err := b.checkListed(t.Context(), evil, evil); err != nil {
			t.Errorf("%s, in a list that is trusted: %v", name, err)
		}
	}
	evil := Inputs{{"a1", "1", "amd64", testSum, "pool/a.deb"}, {"a2", "1", "amd64", testSum, "pool/a.deb"}}
	if err := b.checkListed(t.Context(), evil, nil); err == nil || !strings.Contains(err.Error(), testSum+", and 1 more: not in") {
		t.Errorf("two packages: %v", err)
	}
}

// Only lists whose signature apt has checked, and whose origin is Debian, name Debian's packages.
func TestPackagesAreComparedWithSignedListsOfDebian(t *testing.T) {
	text := "Debian|yes|amd64|/a\nDebian|no|amd64|/unsigned\nDocker|yes|amd64|/other\nDebian|yes|arm64|/arm\nDebian|yes|amd64|/a\n\nDebian|yes|amd64|/b\n"
	if got := parseSigned(text, "amd64"); !slices.Equal(got, []string{"/a", "/b"}) {
		t.Error(got)
	}
	if _, err := (lists{arch: "s390x"}).signedByDebian(t.Context()); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no list: %v", err)
	}
	var found Inputs
	list := "Package: a\nVersion: 1:2\nDescription: x\n SHA256: y\nArchitecture: all\nSHA256: " + testSum + "\n\nPackage: b\nVersion: 1\n"
	if err := eachPackage(strings.NewReader(list), func(p Package) { found = append(found, p) }); err != nil {
		t.Fatal(err)
	}
	if want := (Inputs{{Name: "a", Version: "1:2", Arch: "all", SHA256: testSum}, {Name: "b", Version: "1"}}); !slices.Equal(found, want) {
		t.Errorf("%v, want %v", found, want)
	}
	if err := eachPackage(strings.NewReader(strings.Repeat("x", maxListLine+1)), func(Package) {}); err == nil {
		t.Error("an endless line was accepted")
	}
}
