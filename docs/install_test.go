package docs

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// bare returns a PATH with only the programs that deps-check.sh finds on every Debian, and a
// Go that is new enough.
func bare(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for _, name := range []string{"sh", "id", "cat", "find", "head", "grep", "unshare", "true"} {
		path, err := exec.LookPath(name)
		check(t, err)
		check(t, os.Symlink(path, filepath.Join(dir, name)))
	}
	check(t, os.WriteFile(filepath.Join(dir, "go"), []byte("#!/bin/sh\necho go1.26.0\n"), 0o755))
	return dir
}

// script runs a script of this repository and returns its exit code and its output.
func script(t *testing.T, env []string, name string, args ...string) (int, string) {
	t.Helper()
	cmd := exec.Command("/bin/sh", append([]string{filepath.Join("../scripts", name)}, args...)...)
	cmd.Env = append(os.Environ(), env...)
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return cmd.ProcessState.ExitCode(), string(out)
}

// Each target has its own list of packages, and the printed command works on a Debian without
// package lists.
func TestDepsCheckHasAListForEachTarget(t *testing.T) {
	env := []string{"PATH=" + bare(t)}
	for target, want := range map[string]struct{ has, not []string }{
		"build": {[]string{"git", "make"}, []string{"gcc", "qemu", "mtools", "nginx"}},
		"image": {[]string{"mtools", "zstd"}, []string{"gcc", "qemu", "nginx", "mmdebstrap"}},
		"demo":  {[]string{"qemu-system-x86", "mmdebstrap", "mtools", "zstd"}, []string{" gcc", "nginx", "nftables"}},
		"test":  {[]string{"qemu-system-x86", " gcc", "zstd"}, []string{"casync"}},
		"bench": {[]string{"casync"}, []string{"qemu"}},
	} {
		code, said := script(t, env, "deps-check.sh", target)
		_, line, found := strings.Cut(said, "as root run: apt-get update && apt-get install -y --no-install-recommends ")
		if code != 1 || !found {
			t.Errorf("%s: exit code %d: %s", target, code, said)
		}
		for _, name := range want.has {
			if !strings.Contains(" "+line, name) {
				t.Errorf("%s: no %s in %q", target, name, line)
			}
		}
		for _, name := range want.not {
			if strings.Contains(" "+line, name) {
				t.Errorf("%s: %s in %q", target, name, line)
			}
		}
	}
	if code, said := script(t, env, "deps-check.sh", "cake"); code != 2 || !strings.Contains(said, "usage: ") {
		t.Errorf("unknown target: exit code %d: %s", code, said)
	}
}

// write-usb.sh passes its arguments to the phase-image of its own tree, in both forms.
func TestWriteUSBRefusesAFileThatIsNoImage(t *testing.T) {
	tree := t.TempDir()
	text, err := os.ReadFile("../scripts/write-usb.sh")
	check(t, err)
	check(t, os.Symlink(build(t), filepath.Join(tree, "bin")))
	check(t, os.Mkdir(filepath.Join(tree, "scripts"), 0o755))
	check(t, os.WriteFile(filepath.Join(tree, "scripts/write-usb.sh"), text, 0o755))
	for _, c := range []struct {
		image, device string
		code          int
		words         string
	}{
		{"../README.md", "/dev/null", 5, "image ../README.md: no partition table"},
		{"nothing.img", "/dev/null", 4, "image nothing.img: file does not exist"},
		{"..", "/dev/null", 2, "image ..: is a directory"},
		{os.DevNull, "/dev/null", 2, "neither a regular file nor a block device"},
	} {
		for _, args := range [][]string{{"--yes", c.image, c.device}, {"--yes", "--image", c.image, "--device", c.device}} {
			cmd := exec.Command(filepath.Join(tree, "scripts/write-usb.sh"), args...)
			said, err := cmd.CombinedOutput()
			if cmd.ProcessState.ExitCode() != c.code || !strings.Contains(string(said), c.words) {
				t.Errorf("%q: %v: %s", args, err, said)
			}
		}
	}
}

// Installed commands run, units name installed commands, and every command has a man page
// and completions.
func TestInstall(t *testing.T) {
	bin, dest := build(t), t.TempDir()
	if code, said := script(t, []string{"BIN=" + bin, "DESTDIR=" + dest, "PREFIX=/usr"}, "install.sh"); code != 0 {
		t.Fatalf("exit code %d: %s", code, said)
	}
	usr := filepath.Join(dest, "usr")
	for _, name := range []string{"phase-sign", "phase-publish", "phase-image", "plasmd"} {
		check(t, exec.Command(filepath.Join(usr, "bin", name), "version").Run())
		for _, file := range []string{"share/man/man1/" + name + ".1", "share/bash-completion/completions/" + name, "share/zsh/site-functions/_" + name, "share/fish/vendor_completions.d/" + name + ".fish"} {
			if info, err := os.Stat(filepath.Join(usr, file)); err != nil || info.Size() == 0 {
				t.Errorf("%s: %v", file, err)
			}
		}
	}
	units, err := filepath.Glob(filepath.Join(usr, "lib/systemd/system/*.service"))
	check(t, err)
	if len(units) < 2 {
		t.Errorf("units: %v", units)
	}
	for _, unit := range units {
		text, err := os.ReadFile(unit)
		check(t, err)
		_, command, _ := strings.Cut(string(text), "ExecStart=")
		command, _, _ = strings.Cut(command, " ")
		if _, err := os.Stat(filepath.Join(dest, command)); err != nil {
			t.Errorf("%s: %v", unit, err)
		}
	}
	pages, err := filepath.Glob(filepath.Join(usr, "share/man/man1/*.1"))
	check(t, err)
	for _, file := range pages {
		if page, err := os.ReadFile(file); err != nil || !strings.Contains(string(page), "\n.SH EXAMPLES\n") && !strings.Contains(string(page), "\nExamples:\n") {
			t.Errorf("%s: no example (%v)", filepath.Base(file), err)
		}
	}
	page, err := os.ReadFile(filepath.Join(usr, "share/man/man1/phase-boot.1"))
	check(t, err)
	if !strings.Contains(string(page), `\-mirror`) {
		t.Errorf("phase-boot.1 has no option of fetch:\n%s", page)
	}
}
