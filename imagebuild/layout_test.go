package imagebuild

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io/fs"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/modes"
)

// treeOf returns a tree with one file of size bytes.
func treeOf(size int) *espTree {
	return &espTree{files: map[string][]byte{"phase/vmlinuz": make([]byte, size)}}
}

func TestFormatDiskLayout(t *testing.T) {
	for _, c := range []struct {
		name  string
		files int
		size  int64
		esp   int64
		cache span
	}{
		{"smallest", 0, minESP + 34*mib, minESP, span{minESP + mib, 32 * mib}},
		{"4 GiB", 1 << 20, 4 << 30, minESP, span{minESP + mib, 4<<30 - minESP - 2*mib}},
		{"large files", 200 * mib, 1 << 30, 632 * mib, span{633 * mib, 390 * mib}},
		{"size between two MiB", 0, minESP + 40*mib + 513, minESP, span{minESP + mib, 38 * mib}},
	} {
		d := layOut(treeOf(c.files), c.size)
		if got := (span{d.cacheStart, d.cacheSize}); d.espSize != c.esp || got != c.cache {
			t.Errorf("%s: ESP %d and cache %v, want %d and %v", c.name, d.espSize, got, c.esp, c.cache)
		}
	}
	both := treeOf(1)
	both.fallback = treeOf(2)
	if d := layOut(both, 1<<30); d.cacheStart != mib+2*minESP || d.cacheSize != 1<<30-2*mib-2*minESP {
		t.Errorf("with a fallback: %+v", d)
	}
	if layOut(both, 1<<30).guid("disk") == layOut(treeOf(1), 1<<30).guid("disk") {
		t.Error("the fallback does not change the identifiers")
	}
	if err := checkSize(minESP+33*mib, minESP); !errors.Is(err, fs.ErrInvalid) || !strings.Contains(err.Error(), "at least --size 298M") {
		t.Errorf("too small: %v", err)
	}
}

func TestFormatIdentifiersDependOnContentAndSizeOnly(t *testing.T) {
	a, same, other, larger := layOut(treeOf(1), 1<<30), layOut(treeOf(1), 1<<30), layOut(treeOf(2), 1<<30), layOut(treeOf(1), 2<<30)
	form := regexp.MustCompile(`^[0-9a-f]{8}-[0-9a-f]{4}-8[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$`) // RFC 9562, version 8
	if g := a.guid("disk"); !form.MatchString(g) || g != same.guid("disk") {
		t.Errorf("guid %s and %s", g, same.guid("disk"))
	}
	for name, g := range map[string]string{"another use": a.guid("esp"), "another content": other.guid("disk"), "another size": larger.guid("disk")} {
		if g == a.guid("disk") {
			t.Errorf("%s: same guid %s", name, g)
		}
	}
}

func TestFormatLoaderEntriesAreReadBack(t *testing.T) {
	for _, flavour := range []string{"vm", "generic"} {
		tree := &espTree{files: map[string][]byte{}}
		m := Media{Initramfs: Initramfs{Platform: testPlatform(t, flavour)}, DefaultMode: "local", Cmdline: "quiet phase.cache=off"}
		m.Others = []Initramfs{{Platform: armPlatform(t, flavour)}}
		m.WithTor = true
		if err := tree.addEntries(m); err != nil {
			t.Fatal(err)
		}
		if mode, err := readMenu(string(tree.files[menuPath])); mode != "local" || err != nil {
			t.Errorf("%s: menu starts %q, %v", flavour, mode, err)
		}
		for _, mode := range modes.Names() {
			for _, a := range architectures {
				e, err := readBootEntry(a, mode, string(tree.files[entriesPath+"/"+a.entryName(mode)]))
				if err != nil || e.Mode != mode || e.Arch != a.Arch || e.Boots != mode || e.Title == "" || !strings.HasSuffix(e.Cmdline, " quiet phase.cache=off") {
					t.Errorf("%s: %+v, %v", flavour, e, err)
				}
			}
		}
	}
}

func TestFormatCacheKeyDependsOnEveryInput(t *testing.T) {
	plan := func(change func(*base)) string {
		p := &base{suite: "trixie", arch: "amd64", plan: []string{"a=1"}, excludes: []string{"x"}, date: time.Unix(1e9, 0)}
		change(p)
		return p.key()
	}
	first := plan(func(*base) {})
	if !strings.HasPrefix(first, "trixie-amd64-") || first != plan(func(*base) {}) {
		t.Errorf("key %s", first)
	}
	for name, change := range map[string]func(*base){
		"suite":   func(p *base) { p.suite = "sid" },
		"arch":    func(p *base) { p.arch = "arm64" },
		"package": func(p *base) { p.plan = []string{"a=2"} },
		"exclude": func(p *base) { p.excludes = nil },
		"date":    func(p *base) { p.date = time.Unix(2e9, 0) },
	} {
		if plan(change) == first {
			t.Errorf("another %s has the same key", name)
		}
	}
}

func TestFormatKernelVersion(t *testing.T) {
	image := make([]byte, 0x400)
	copy(image[0x202:], "HdrS")
	binary.LittleEndian.PutUint16(image[0x20e:], 0x100)
	copy(image[0x300:], "6.1.0-9-cloud-amd64 (x)\x00")
	if v, err := kernelVersion(bytes.NewReader(image), int64(len(image)), "x86_64"); v != "6.1.0-9-cloud-amd64 (x)" || err != nil {
		t.Errorf("got %q, %v", v, err)
	}
	for name, change := range map[string]func(){
		"no string": func() { image[0x300] = 0 },
		"no header": func() { image[0x202] = 'X' },
	} {
		change()
		if _, err := kernelVersion(bytes.NewReader(image), int64(len(image)), "x86_64"); !errors.Is(err, cas.ErrCorrupt) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestFormatCacheFolder(t *testing.T) {
	t.Setenv("PHASE_BUILD_CACHE", "/x/y")
	if dir, err := DefaultCache(); dir != "/x/y" || err != nil {
		t.Errorf("got %q, %v", dir, err)
	}
	t.Setenv("PHASE_BUILD_CACHE", "")
	t.Setenv("XDG_CACHE_HOME", "/z")
	if dir, err := DefaultCache(); dir != filepath.Join("/z", "phaseboot") || err != nil {
		t.Errorf("got %q, %v", dir, err)
	}
}
