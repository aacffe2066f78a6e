package imagebuild

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"io/fs"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/phaseboot/phaseboot/cas"
)

func TestAnUnknownPlatformListsTheSupportedOnes(t *testing.T) {
	for _, c := range []struct{ arch, flavour, words string }{
		{"mips", "vm", "supported: x86_64, arm64"},
		{"x86_64", "tiny", "supported for x86_64: vm, generic"},
		{"arm64", "", "supported for arm64: vm, generic"},
		{"all", "vm", "supported: x86_64, arm64"},
		{"", "", "supported"},
	} {
		_, err := ParsePlatform(c.arch, c.flavour)
		if !errors.Is(err, fs.ErrInvalid) || !strings.Contains(err.Error(), c.words) {
			t.Errorf("%q %q: %v", c.arch, c.flavour, err)
		}
	}
}

func TestCommandLineIsOneLineAndNamesNoInitramfs(t *testing.T) {
	for _, s := range []string{"a\nb", "a\x00b", "a\x1b[2J", "é", strings.Repeat("x", 1025)} {
		if err := checkCmdline(s); !errors.Is(err, fs.ErrInvalid) {
			t.Errorf("%.20q: %v", s, err)
		}
	}
	for _, s := range []string{
		`initrd=\evil`, "initrd", "quiet initrd=/x", "initrdmem=1,2", "noinitrd", `xinitrd=\evil`, `a.initrd=\evil`, `"initrd=\evil"`, `phase.mirror=http://a/initrd=\evil`, `init"rd=\evil"`,
	} {
		if err := checkCmdline(s); !errors.Is(err, fs.ErrInvalid) || !strings.Contains(err.Error(), "one initramfs") {
			t.Errorf("%q: %v", s, err)
		}
	}
	if err := checkCmdline("phase.mirror=http://[2001:db8::1]/ quiet"); err != nil {
		t.Error(err)
	}
}

func TestAptCacheShowIsParsed(t *testing.T) {
	d := parseStanza([]byte("Package: linux-image-cloud-amd64\nVersion: 6.1.2-1\nArchitecture: amd64\nDepends: linux-image-6.1.0-9-cloud-amd64 (= 6.1.2-1)\nFilename: pool/x/../linux_1_amd64.deb\nSHA256: ABCD\n\nPackage: other\nVersion: 9\n"))
	want := deb{Name: "linux-image-cloud-amd64", Version: "6.1.2-1", Arch: "amd64", File: "linux_1_amd64.deb", pool: "pool/linux_1_amd64.deb", SHA256: "abcd", Depends: "linux-image-6.1.0-9-cloud-amd64 (= 6.1.2-1)"}
	if d != want {
		t.Errorf("got %+v, want %+v", d, want)
	}
	for depends, want := range map[string]string{
		"linux-image-6.1.0-9-cloud-amd64 (= 6.1.2-1)":           "linux-image-6.1.0-9-cloud-amd64",
		"foo, linux-image-6.12.48+deb13-amd64 (= 6.12.48-1)":    "linux-image-6.12.48+deb13-amd64",
		"linux-image-6.12.5-amd64-unsigned | linux-image-amd64": "linux-image-6.12.5-amd64-unsigned",
	} {
		if m := kernelPackage.FindString(depends); m != want {
			t.Errorf("%q: got %q, want %q", depends, m, want)
		}
	}
}

func TestOnlyDebiansSourcesOfOneSuiteAreUsed(t *testing.T) {
	text := strings.Join([]string{
		"http://a/debian/|sid|main|Debian|$(SIGNED_BY)|amd64|/l/a_debian_dists_sid_main_binary-amd64_Packages",
		"http://a/debian/|trixie|main|Debian|/usr/share/keyrings/k.gpg|amd64|/l/a_debian_dists_trixie_main_binary-amd64_Packages",
		"http://a/debian/|trixie|non-free|Debian|$(SIGNED_BY)|amd64|/l/x",
		"http://a/debian/|trixie-updates|main|Debian|$(SIGNED_BY)|amd64|/l/y",
		"http://a/debian/|trixie|main|Debian|$(SIGNED_BY)|arm64|/l/z",
		"http://b/other/|trixie|main|Other|$(SIGNED_BY)|amd64|/l/o", "", "garbage|",
	}, "\n")
	all := parseSources(text, "amd64")
	if len(all) != 3 {
		t.Fatalf("got %d sources: %+v", len(all), all)
	}
	if all[0].signedBy != "" || all[1].signedBy == "" {
		t.Errorf("signed-by: %+v", all)
	}
	for codename, want := range map[string]string{"trixie": "trixie", "noble": "sid", "": "sid"} {
		if got := chooseSuite(all, codename); got != want {
			t.Errorf("on %q: suite %q, want %q", codename, got, want)
		}
	}
	if got := chooseSuite(nil, "trixie"); got != "" {
		t.Errorf("no source: %q", got)
	}
}

func TestOnlyAptsSettingsForDownloadsAreUsed(t *testing.T) {
	for line, want := range map[string]bool{
		`Acquire::http::Proxy "http://proxy.example:3128";`: true,
		`Acquire::https::a.example::Proxy "DIRECT";`:        true,
		`Acquire::Retries "3";`:                             true,
		`Acquire::Check-Valid-Until "false";`:               true,
		`Acquire::AllowInsecureRepositories "true";`:        false,
		`Acquire::http::Proxy "a"; Dir "b";`:                false,
		`DPkg::Post-Invoke "rm";`:                           false,
		` Acquire::Retries "3";`:                            false,
	} {
		dump := "APT \"\";\n" + line + "\nDir \"/\";\n"
		if got := acquireOption.FindAllString(dump, -1); want != slices.Equal(got, []string{line}) || !want && len(got) > 0 {
			t.Errorf("%s: used %q, want %t", line, got, want)
		}
	}
}

func TestTheHostsCodenameIsRead(t *testing.T) {
	for text, want := range map[string]string{
		"ID=debian\nVERSION_CODENAME=trixie\nX=1\n": "trixie",
		"VERSION_CODENAME=\"noble\"\n":              "noble",
		"OTHER_VERSION_CODENAME=noble\nID=debian\n": "",
		"": "",
	} {
		got := ""
		if m := codenameLine.FindStringSubmatch(text); m != nil {
			got = m[1]
		}
		if got != want {
			t.Errorf("%q: got %q, want %q", text, got, want)
		}
	}
}

func TestModuleListsAreParsed(t *testing.T) {
	got := parseModuleList("# comment\n!+virtio_pci\n+loop # why\n\n!vfat\nnls_iso8859-1\nahci@x86_64\n!sdhci@arm64\ndrivers/net/\n-drivers/net/wan/\n", "arm64")
	want := []listedModule{
		{"virtio_pci", true, true, false},
		{"loop", false, true, false},
		{"vfat", true, false, false},
		{"nls_iso8859-1", false, false, false},
		{"sdhci", true, false, false},
		{"drivers/net/", false, false, false},
		{"drivers/net/wan/", false, false, true},
	}
	if !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	if pre := softdepPre("pre: crc32c aes post: x pre: y"); !slices.Equal(pre, []string{"crc32c", "aes", "y"}) {
		t.Errorf("softdep %v", pre)
	}
}

func TestModulesDepNamesEachModuleBeforeItsDependencies(t *testing.T) {
	m := func(path string, depends ...string) *module {
		return &module{path: path, info: modinfo{depends: depends}}
	}
	s := &moduleSet{files: map[string]*module{
		"net": m("n.ko", "ring", "virtio", "failover"), "ring": m("r.ko"), "virtio": m("v.ko", "ring"), "failover": m("f.ko"),
	}}
	want := "f.ko:\nn.ko: v.ko r.ko f.ko\nr.ko:\nv.ko: r.ko\n"
	if got := s.dep(); got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestArchiveDoesNotDependOnTheOrderOfItsFiles(t *testing.T) {
	build := func(names ...string) []byte {
		a := newArchive()
		for _, name := range names {
			a.text(name, "text of "+name)
		}
		out, err := emptyBuilder(t).compressed(t.Context(), Platform{}, a, time.Unix(1e9, 0))
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	if !bytes.Equal(build("a/b", "c", "a/d"), build("c", "a/d", "a/b")) {
		t.Error("the order of adding files changes the bytes")
	}
}

func TestSettingsAreReadBackFromAnInitramfs(t *testing.T) {
	a := newArchive()
	a.text("init", "program")
	a.text("etc/phase/role", "boot\n")
	a.text("etc/phase/channel", "stable\n")
	out, err := emptyBuilder(t).compressed(t.Context(), Platform{}, a, time.Unix(1e9, 0))
	if err != nil {
		t.Fatal(err)
	}
	settings, err := readSettings(bytes.NewReader(out), int64(len(out)))
	if err != nil || settings.text("role") != "boot" || settings.text("channel") != "stable" {
		t.Errorf("got %v, %v", settings, err)
	}
	for n := range len(out) {
		if _, err := readSettings(bytes.NewReader(out[:n]), int64(n)); !errors.Is(err, cas.ErrCorrupt) {
			t.Fatalf("the first %d of %d bytes were accepted", n, len(out))
		}
	}
}

func TestLayerReplacesRemovesAndAddsFiles(t *testing.T) {
	var in bytes.Buffer
	w := tar.NewWriter(&in)
	late := time.Unix(3e9, 0)
	for _, h := range []tar.Header{
		{Name: "./", Typeflag: tar.TypeDir, Mode: 0o755},
		{Name: "./etc/", Typeflag: tar.TypeDir, Mode: 0o755},
		{Name: "./etc/hostname", Typeflag: tar.TypeReg, Mode: 0o644},
		{Name: "./etc/hosts", Typeflag: tar.TypeReg, Mode: 0o644},
		{Name: "./etc/passwd", Typeflag: tar.TypeReg, Mode: 0o644, ModTime: late},
		{Name: "./var/log/", Typeflag: tar.TypeDir, Mode: 0o755},
		{Name: "./var/log/dpkg.log", Typeflag: tar.TypeReg, Mode: 0o644},
		{Name: "./etc/apt/sources.list", Typeflag: tar.TypeReg, Mode: 0o644},
	} {
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
	}
	w.Close()
	date := time.Unix(1e9, 0)
	l, err := newLayer(testPlatform(t, "vm"), []byte("program"), date)
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if err := l.apply(&in, &out); err != nil {
		t.Fatal(err)
	}
	count := map[string]int{}
	for r := tar.NewReader(&out); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		count[h.Name]++
		if h.ModTime.After(date) {
			t.Errorf("%s: dated %v, after the build", h.Name, h.ModTime)
		}
	}
	for name, want := range map[string]int{"./etc/": 1, "./etc/hostname": 0, "./etc/hosts": 1, "./etc/passwd": 1, "./usr/bin/plasmd": 1, "./usr/bin/": 1, "./var/log/": 1, "./var/log/dpkg.log": 0, "./etc/apt/sources.list": 0} {
		if count[name] != want {
			t.Errorf("%s: %d times, want %d", name, count[name], want)
		}
	}
}

func TestToolErrorsNameCauseAndRemedy(t *testing.T) {
	for _, c := range []struct {
		err  toolError
		want string
	}{
		{toolError{"mke2fs", "", false, errors.New("exit status 1")}, "mke2fs: exit status 1"},
		{toolError{"mcopy", "Disk full", false, errors.New("exit status 1")}, "mcopy: Disk full; free some space and run it again"},
	} {
		if got := c.err.Error(); got != c.want {
			t.Errorf("got %q, want %q", got, c.want)
		}
	}
	t.Setenv("PATH", t.TempDir())
	if _, err := findTool("mmdebstrap-not"); err == nil || !strings.Contains(err.Error(), "not found; run: apt-get install") {
		t.Errorf("missing tool: %v", err)
	}
}

func TestForbiddenUserNamespacesHaveARemedy(t *testing.T) {
	for setting, want := range map[string]string{
		"kernel/unprivileged_userns_clone=0":             "sysctl -w kernel.unprivileged_userns_clone=1",
		"user/max_user_namespaces=0":                     "sysctl -w user.max_user_namespaces=15000",
		"kernel/apparmor_restrict_unprivileged_userns=1": "sysctl -w kernel.apparmor_restrict_unprivileged_userns=0",
		"kernel/unprivileged_userns_clone=1":             "run it as root",
	} {
		name, value, _ := strings.Cut(setting, "=")
		got := namespaceAdvice(func(asked string) string {
			if asked == name {
				return value
			}
			return ""
		})
		if !strings.Contains(got, want) {
			t.Errorf("%s: %q", setting, got)
		}
	}
}

// FuzzModinfo checks that no input makes parseModinfo panic.
func FuzzModinfo(f *testing.F) {
	f.Add([]byte("\x7fELF"))
	f.Fuzz(func(_ *testing.T, data []byte) { _, _ = parseModinfo(data) })
}
