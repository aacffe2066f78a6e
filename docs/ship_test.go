package docs

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/phaseboot/phaseboot/internal/bootfile/bootfiletest"
)

// TestTheExampleOfYourOwnOSWorksAsItStands runs the commands of SHIP-YOUR-OWN-OS.md with a
// file that has the header of a kernel, and inspects the results with other tools.
func TestTheExampleOfYourOwnOSWorksAsItStands(t *testing.T) {
	text, err := os.ReadFile("SHIP-YOUR-OWN-OS.md")
	check(t, err)
	kernel := filepath.Join(t.TempDir(), "kernel")
	check(t, os.WriteFile(kernel, bootfiletest.Kernel("x86_64", ""), 0o600))
	script := beforehand + "cp " + kernel + " artifacts/kernel\n"
	for _, m := range fence.FindAllStringSubmatch(string(text), -1) {
		script += m[1]
	}
	for _, inspection := range []string{
		"sh -n initramfs/init", "sh -n rootfs/sbin/init",
		"gzip -dc artifacts/initramfs | cpio --quiet -t | grep -x init",
		"gzip -dc artifacts/initramfs | cpio --quiet -t | grep -x bin/busybox",
		"unsquashfs -l artifacts/rootfs | grep -x squashfs-root/sbin/init",
		"phase-publish status --store store --repo repo | grep 'stable/x86_64: 1-own'",
	} {
		script += inspection + "\n"
	}
	if strings.Count(script, "phase-sign release") < 2 {
		t.Fatal("SHIP-YOUR-OWN-OS.md has fewer than two releases")
	}
	work(t, script)
}
