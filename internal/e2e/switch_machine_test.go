//go:build machine

package e2e

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/cas/pack"
	"github.com/phaseboot/phaseboot/manifest"
)

// watchFlags are those of the service: rounds in quick succession, and a rate at which a fetch takes some seconds.
const watchFlags = `PHASE_WATCH="--every 5s --rate 1M"
`

// nextUnit looks on from inside the target. While the next release is fetched, it kills the process that does it; when the
// notice for a restart is there, it switches.
const nextUnit = `[Unit]
After=phase-job.service multi-user.target phase-bless.service phase-watch.service

[Service]
Type=exec
ExecStart=/bin/bash /etc/next
`

const nextScript = `exec >/dev/console 2>&1
version=$(sed 's/.*phase.release=\([^ ]*\).*/\1/' /proc/cmdline)
stored() { du -sk /run/phase-rw/next/blocks | cut -f1; }
echo "next: runs $version"
if [ "$version" != 1.0 ]; then exit; fi
until systemctl is-active --quiet phase-watch.service; do sleep 1; done
begun=$(stored)
echo "next: watched"
until [ $(stored) -gt $((begun + 2048)) ]; do sleep 0.2; done
systemctl kill --kill-whom=main --signal=KILL phase-watch.service
echo "next: killed after $(($(stored) - begun)) KiB, notice: $(cat /run/reboot-required 2>&1)"
until [ -f /run/reboot-required ]; do sleep 1; done
echo "next: $(cat /run/reboot-required) $(cat /run/reboot-required.pkgs)"
/run/phase/phase-boot watch --status
/run/phase/phase-boot switch --release 3.0 || echo "next: exit code $?"
/run/phase/phase-boot switch --dry-run
/run/phase/phase-boot switch
`

// nextArtifacts are the fixtures' artifacts with a root filesystem that switches, and with more bytes of its own.
func nextArtifacts(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	root, artifacts := filepath.Join(dir, "root"), filepath.Join(dir, "artifacts")
	must(t, "cp", "-a", fx.path("artifacts"), artifacts)
	must(t, "unsquashfs", "-quiet", "-no-progress", "-no-xattrs", "-dest", root, fx.path("artifacts/rootfs"))
	units := filepath.Join(root, "etc/systemd/system")
	must(t, "mkdir", "-p", filepath.Join(root, "etc/default"))
	must(t, "dd", "if=/dev/urandom", "of="+filepath.Join(root, "usr/share/more"), "bs=1M", "count=8", "status=none")
	for _, err := range []error{
		os.WriteFile(filepath.Join(root, "etc/default/phase-watch"), []byte(watchFlags), 0o644),
		os.WriteFile(filepath.Join(root, "etc/next"), []byte(nextScript), 0o644),
		os.WriteFile(filepath.Join(units, "next.service"), []byte(nextUnit), 0o644),
		os.Symlink("../next.service", filepath.Join(units, "multi-user.target.wants/next.service")),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	must(t, "rm", filepath.Join(artifacts, "rootfs"))
	must(t, "mksquashfs", root, filepath.Join(artifacts, "rootfs"), "-quiet", "-no-progress", "-all-root", "-noappend", "-comp", "zstd", "-Xcompression-level", "1")
	return artifacts
}

// A running target learns of a release that is published meanwhile, and fetches it ahead. The process that fetches is killed once. The
// notice for a restart appears when everything is verified, and phase-boot switch jumps into the release, which is blessed. The cache
// has both releases whole, and boots the new one without a publisher.
func TestMachineSwitchesToTheNextRelease(t *testing.T) {
	t.Parallel()
	l, p := newLAN(t), publication(t)
	p.signOwn(t, nextArtifacts(t), "1.0", "--bless=10m")
	publisher := p.serve(l.host())
	disk := filepath.Join(l.dir, "next.img")
	must(t, "cp", "--sparse=always", fx.path("local.img"), disk)
	m := l.powerOn(disk)
	at := m.waitFrom(0, []string{"] resolve: stable/x86_64 release 1.0", started, "] next release: by phase-boot watch and phase-boot switch", "next: watched"}, refused)
	p.signOwn(t, nextArtifacts(t), "2.0", "--bless=10m")
	at = m.waitFrom(at, []string{"next: killed after ", "KiB, notice: cat: /run/reboot-required: No such file"}, refused)
	at = m.waitFrom(at, []string{
		"release 2.0 is fetched and verified", "next: *** System restart required *** phase-release=2.0", "release 2.0 is fetched and verified",
		`--release "3.0": the next release of this machine is "2.0"`, "next: exit code 2",
		"release 2.0 would start in place of 1.0", "release 2.0 starts in place of 1.0",
	}, refused)
	m.waitFrom(at, []string{"Linux version", "phase.release=2.0", "phase-boot: target: release 2.0", "blessed: stable/x86_64 2.0", "next: runs 2.0"}, refused)
	m.powerOff()
	publisher.stop()
	holdsReleases(t, disk, p.at("repo"), "1.0", "2.0")

	m = l.powerOn(disk)
	m.waitFor([]string{"] resolve: stable/x86_64 release 2.0 from the cache", "] kexec: starting", "next: runs 2.0"}, refused)
}

// holdsReleases checks that the cache partition of a disk has every artifact of releases.
func holdsReleases(t *testing.T, disk, repo string, versions ...string) {
	t.Helper()
	dir := t.TempDir()
	first, size := cachePartition(t, disk)
	copied := filepath.Join(dir, "cache.img")
	must(t, "dd", "if="+disk, "of="+copied, "bs=1M", "iflag=skip_bytes,count_bytes", fmt.Sprintf("skip=%d", first), fmt.Sprintf("count=%d", size), "conv=sparse", "status=none")
	must(t, "sh", "-c", `e2fsck -p -E journal_only "$1" || [ $? -eq 1 ]`, "sh", copied)
	must(t, "debugfs", "-R", "rdump /blocks "+dir, copied)
	store, err := pack.Open(filepath.Join(dir, "blocks"), pack.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	for _, version := range versions {
		for _, a := range publishedRelease(t, repo, version).Artifacts {
			sum := sha256.New()
			if err := cas.Copy(t.Context(), sum, store, a.CID, a.Length); err != nil || hex.EncodeToString(sum.Sum(nil)) != a.SHA256 {
				t.Errorf("release %s, %s: %v", version, a.Role, err)
			}
		}
	}
}

// publishedRelease returns a release of a repository.
func publishedRelease(t *testing.T, repo, version string) manifest.Release {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(repo, "*.stable-x86_64.json"))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range files {
		data, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		if d, err := manifest.Open(data); err == nil && d.Release().Version == version {
			return *d.Release()
		}
	}
	t.Fatalf("no release %s in %s", version, repo)
	return manifest.Release{}
}
