package imagebuild

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// The tor of an image runs with the libraries of the image alone.
func TestAnImageWithTor(t *testing.T) {
	b, dir := testBuilder(t), t.TempDir()
	in := testMedia(t, b).Initramfs
	in.WithTor, in.Torrc = true, []byte("UseBridges 1\nBridge 192.0.2.7:443\n")
	archive := filepath.Join(dir, "initramfs")
	if _, err := b.WriteInitramfs(t.Context(), in, archive); err != nil {
		t.Fatal(err)
	}
	c, err := b.Verify(t.Context(), archive)
	if err != nil {
		t.Fatal(err)
	}
	if !c.Tor || string(c.torrc) != string(in.Torrc) {
		t.Errorf("tor %t, torrc %q", c.Tor, c.torrc)
	}
	if err := b.CompareRebuild(t.Context(), c, Rebuild{PhaseBoot: func(string) (string, error) { return in.PhaseBoot, nil }}); err != nil {
		t.Errorf("a rebuild differs: %v", err)
	}
	tree := unpackArchive(t, archive)
	linker, err := filepath.Glob(filepath.Join(tree, "lib64/ld-linux-*"))
	if err != nil || len(linker) != 1 {
		t.Fatalf("%q, %v", linker, err)
	}
	out, err := exec.Command(linker[0], "--inhibit-cache", "--library-path", filepath.Join(tree, "lib"), "--list", filepath.Join(tree, torPath)).CombinedOutput()
	if err != nil || strings.Contains(string(out), "not found") {
		t.Fatalf("%v: %s", err, out)
	}
	for line := range strings.Lines(string(out)) {
		if _, at, found := strings.Cut(line, "=> /"); found && !strings.HasPrefix("/"+at, tree) {
			t.Errorf("a library from outside of the image: %s", line)
		}
	}
	out, err = exec.Command(linker[0], "--library-path", filepath.Join(tree, "lib"), filepath.Join(tree, torPath), "--version").CombinedOutput()
	if err != nil || !strings.HasPrefix(string(out), "Tor version ") {
		t.Errorf("%v: %s", err, out)
	}
}

// unpackArchive unpacks the regular files of an initramfs.
func unpackArchive(t *testing.T, archive string) (tree string) {
	t.Helper()
	f, err := os.Open(archive)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	z, err := openFrame(f, info.Size())
	if err != nil {
		t.Fatal(err)
	}
	defer z.Close()
	tree = t.TempDir()
	err = readArchive(z, func(c cpioRecord) error {
		path := filepath.Join(tree, c.name)
		if c.mode&modeType != modeFile {
			return nil
		}
		data, err := io.ReadAll(c.body)
		if err != nil {
			return err
		}
		return errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, data, os.FileMode(c.mode&0o777)))
	})
	if err != nil {
		t.Fatal(err)
	}
	return tree
}

func TestWhatNeedsTorIsRefusedWithoutIt(t *testing.T) {
	onion := "phase.mirror=http://" + strings.Repeat("a", 56) + ".onion"
	for name, tt := range map[string]struct {
		in            Initramfs
		mode, cmdline string
		want          string // "" if it is accepted
	}{
		"nothing":                        {Initramfs{}, "internet", "", ""},
		"the mode, with Tor":             {Initramfs{WithTor: true}, "tor", onion, ""},
		"the mode":                       {Initramfs{}, "tor", "", "boot mode tor: the image has no Tor; add --with-tor"},
		"the mode of the command line":   {Initramfs{}, "local", "phase.mode=tor", "boot mode tor: the image has no Tor; add --with-tor"},
		"an onion service":               {Initramfs{}, "private", onion, "an onion service can only be reached through Tor; add --with-tor"},
		"an onion service, HTTP proxy":   {Initramfs{}, "private", onion + " phase.proxy=http://192.0.2.1:3128", "only be reached through Tor"},
		"an onion service through SOCKS": {Initramfs{}, "private", onion + " phase.proxy=socks5://192.0.2.1:9050", ""},
		"a torrc":                        {Initramfs{Torrc: []byte("UseBridges 1\n")}, "private", "", "torrc: the image has no Tor; add --with-tor"},
		"a torrc with bridges":           {Initramfs{WithTor: true, Torrc: []byte("# mine\nUseBridges 1\nBridge 192.0.2.7:443\n")}, "tor", "", ""},
		"a torrc with a SOCKS port":      {Initramfs{WithTor: true, Torrc: []byte("SOCKSPort 0.0.0.0:9050\n")}, "tor", "", `torrc: "SOCKSPort": the machine sets it`},
		"a torrc with another file":      {Initramfs{WithTor: true, Torrc: []byte("\n  %include /etc/other\n")}, "tor", "", `"%include"`},
		"a torrc that is a program":      {Initramfs{WithTor: true, Torrc: []byte("\x7fELF\x00")}, "tor", "", "not a text"},
		"a large torrc":                  {Initramfs{WithTor: true, Torrc: make([]byte, maxTorrc+1)}, "tor", "", "more than 65536 bytes"},
	} {
		t.Run(name, func(t *testing.T) {
			err := tt.in.checkTor(tt.mode, tt.cmdline)
			if tt.want == "" && err != nil || tt.want != "" && (!errors.Is(err, fs.ErrInvalid) || !strings.Contains(err.Error(), tt.want)) {
				t.Errorf("got %v, want %q", err, tt.want)
			}
		})
	}
}

// verify shows the digest of the torrc, so an image cannot have another one.
func TestAttackATorrcThatIsNotShown(t *testing.T) {
	for name, c := range map[string]cpioRecord{
		"too long":          {name: torrcPath, mode: modeFile | 0o644, size: maxTorrc + 1},
		"a link":            {name: torrcPath, mode: modeLink | 0o777, size: 4},
		"behind a link":     {name: "etc/tor", mode: modeLink | 0o777, size: 4},
		"a regular torrc":   {name: torrcPath, mode: modeFile | 0o644, size: 4},
		"a regular folder":  {name: "etc/tor", mode: modeDir | 0o755},
		"of something else": {name: "etc/torrc", mode: modeLink | 0o777, size: 4},
	} {
		t.Run(name, func(t *testing.T) {
			c.body = strings.NewReader("body")
			err := (&settings{files: map[string][]byte{}}).visit(c)
			if refused := slices.Contains([]string{"too long", "a link", "behind a link"}, name); refused != (err != nil) {
				t.Errorf("got %v", err)
			}
		})
	}
}

func TestPackagesOfLibraries(t *testing.T) {
	d := deb{Depends: "libc6 (>= 2.34), libssl3t64:any (>= 3.0) | libssl4, zlib1g, adduser, runit-helper (>= 2.14.0~)"}
	if got, want := d.libraries(), []string{"libc6", "libssl3t64", "zlib1g"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}
