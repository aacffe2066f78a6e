package e2e

import (
	"errors"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// secondArchive appends an archive with another root.json to the initramfs of an image. The
// kernel unpacks both.
func secondArchive(t *testing.T, disk, root string) {
	t.Helper()
	must(t, "sh", "-euc", `
		mkdir -p "$1/etc/phase" && cp "$2" "$1/etc/phase/root.json"
		mcopy -n -i "$3@@1M" ::/phase/initramfs.zst "$1/initramfs"
		(cd "$1" && find etc | cpio --quiet -o -H newc | zstd -q >second && cat initramfs second >both)
		mcopy -o -i "$3@@1M" "$1/both" ::/phase/initramfs.zst`, "sh", t.TempDir(), root, disk)
}

// The machine uses the root.json of the second archive, so verify must not show that of the
// first.
func TestAttackImageWithASecondArchive(t *testing.T) {
	t.Parallel()
	s, now := newStick(t, ""), time.Now()
	s.serveMirror(publication(t))
	other, hostile := t.TempDir(), filepath.Join(s.dir, "hostile.img")
	args := initRepo(fx, "", "other", "other")
	for i := range args {
		if args[i] == "--repo" {
			args[i+1] = other
		}
	}
	must(t, args[0], args[1:]...)
	must(t, "cp", "--sparse=always", s.disk, hostile)
	secondArchive(t, hostile, filepath.Join(other, "root.json"))

	must(t, fx.bin("phase-image"), "verify", "--root", fx.path("repo/root.json"), s.disk)
	out, err := exec.Command(fx.bin("phase-image"), "verify", hostile).CombinedOutput()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != 5 || !strings.Contains(string(out), "after its frame, which the kernel would unpack too") {
		t.Errorf("verify: %v\n%s", err, out)
	}
	s.bootAt(now, []string{resolved}, refused)
	s.disk = hostile
	s.bootAt(now, []string{refused}, resolved)
}
