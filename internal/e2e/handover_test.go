package e2e

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

// newSite makes a segment whose server gives leases of two minutes, a host name, and answers DNS.
func newSite(t *testing.T) (*lan, *daemon) {
	t.Helper()
	l := newSegment(t, "10.55.0")
	return l, l.leases("2m", "--dhcp-host=52:54:00:*:*:*,node7", "--domain=site.example", "--address=/answer.site.example/10.55.0.77")
}

// noDHCPAfter fails the test if the server has logged a DHCP message after an offset.
func noDHCPAfter(t *testing.T, dhcp *daemon, from int) {
	t.Helper()
	if after, _ := dhcp.stderr.since(from); bytes.Contains(after, []byte("DHCP")) {
		t.Errorf("DHCP after the jump:\n%s", after)
	}
}

// show is a unit of a target. It prints the network and the report on the console.
const show = `[Unit]
Wants=systemd-networkd-wait-online.service
After=systemd-networkd-wait-online.service phase-job.service
ConditionPathExists=/run/phase

[Service]
Type=oneshot
ExecStart=/bin/sh -c 'exec >/dev/console 2>&1; echo "host=$(cat /proc/sys/kernel/hostname)"; grep -B1 "host LOCAL" /proc/net/fib_trie; getent hosts answer; echo "report=$(cat /run/phase/report.json)"; echo shown'
`

// showingRootfs makes a root filesystem with the unit show from the fixtures' one, and returns a folder
// of artifacts with it.
func showingRootfs(t *testing.T) string {
	t.Helper()
	return rootfsWith(t, show)
}

// rootfsWith is showingRootfs with another unit.
func rootfsWith(t *testing.T, unit string) string {
	t.Helper()
	dir := t.TempDir()
	root, artifacts := filepath.Join(dir, "root"), filepath.Join(dir, "artifacts")
	must(t, "cp", "-a", fx.path("artifacts"), artifacts)
	must(t, "unsquashfs", "-quiet", "-no-progress", "-no-xattrs", "-dest", root, fx.path("artifacts/rootfs"))
	units := filepath.Join(root, "etc/systemd/system")
	for _, err := range []error{
		os.WriteFile(filepath.Join(units, "show.service"), []byte(unit), 0o644),
		os.Symlink("../show.service", filepath.Join(units, "multi-user.target.wants/show.service")),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	must(t, "rm", filepath.Join(artifacts, "rootfs"))
	must(t, "mksquashfs", root, filepath.Join(artifacts, "rootfs"), "-quiet", "-no-progress", "-all-root", "-noappend", "-comp", "zstd", "-Xcompression-level", "1")
	return artifacts
}

// A handedReport is the part of the report that these tests read in the target.
type handedReport struct {
	Steps []struct {
		Name, Words string
		Took        int64 `json:"took_ms"`
		Memory      int64 `json:"memory_bytes"`
	}
	Line   string `json:"command_line"`
	Clock  struct{ At, Words string }
	Target struct {
		Steps []struct{ Name string }
	}
}

// shownReport returns the report that a target has printed.
func shownReport(t *testing.T, m *machine) (r handedReport) {
	t.Helper()
	text, _ := m.console.since(0)
	found := regexp.MustCompile(`report=(\{.*\})`).FindSubmatch(text)
	if found == nil {
		t.Fatal("no report on the console")
	}
	if err := json.Unmarshal(found[1], &r); err != nil {
		t.Fatalf("%v in %s", err, found[1])
	}
	return r
}

var leaseLine = regexp.MustCompile(`\] network: eth0 (10\.55\.0\.\d+)/24`)

// addressOf returns the address of the boot.
func (m *machine) addressOf() string {
	m.t.Helper()
	text, _ := m.console.since(0)
	found := leaseLine.FindSubmatch(text)
	if found == nil {
		m.t.Fatal("no address on the console")
	}
	return string(found[1])
}

// The target has the address, the name server and the host name of the boot without a DHCP message. When
// half of the lease is over, it asks the server for a lease, and keeps the address.
func TestTheTargetKeepsTheAddressOfTheBootWithoutDHCP(t *testing.T) {
	t.Parallel()
	l, dhcp := newSite(t)
	p, artifacts := publication(t), showingRootfs(t)
	p.signOwn(t, artifacts, "2026.12-show")
	p.serve(l.host())
	m := l.boot(fx.path("local.img"))
	m.waitFor([]string{"] network: eth0 10.55", "] kexec: loaded", "memory: at most", "] kexec: starting"}, refused)
	said := dhcp.stderr.length()
	m.waitFor([]string{"phase-boot: target: ", "] target network: as in the boot", "host=node7", m.addressOf(), "10.55.0.77", "shown"})
	noDHCPAfter(t, dhcp, said)
	r := shownReport(t, m)
	last := r.Steps[len(r.Steps)-1]
	if last.Name != "kexec" || last.Took < 100 || !strings.Contains(r.Line, "phase.release=2026.12-show") || r.Clock.At == "" || r.Clock.Words == "" || len(r.Target.Steps) < 4 {
		t.Errorf("the report in the target: %+v", r)
	}
	for _, s := range r.Steps {
		if s.Name == "fetch" && s.Memory < 10<<20 {
			t.Errorf("memory of the fetch: %d bytes", s.Memory)
		}
	}
	dhcp.logsAfter(t, said, "DHCPACK(br0) "+m.addressOf(), 3*time.Minute)
}

// ownInit is the init of an initramfs that is the whole system. It runs the script of SHIP-YOUR-OWN-OS.md.
const ownInit = `#!/bin/busybox sh
export PATH=/bin
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t devtmpfs dev /dev
mount -t sysfs sys /sys
exec >/dev/console 2>&1
for module in $(grep -v '#' /etc/phase/modules); do modprobe $module; done
for i in 1 2 3 4 5; do [ -e /sys/class/net/eth0 ] || sleep 1; done
network
echo "host=$(hostname)"
ip -4 addr show; ip route; cat /etc/resolv.conf
nslookup answer.site.example | tail -4
echo "report=$(cat /phase/report.json)"
ls -l /phase/machine.key
echo shown
sleep 100000
`

// networkScript returns the script of SHIP-YOUR-OWN-OS.md that gives a system the network of the boot.
func networkScript(t *testing.T) string {
	t.Helper()
	_, script, _ := strings.Cut(string(readFile(t, "../../docs/SHIP-YOUR-OWN-OS.md")), "cat > initramfs/bin/network <<'SCRIPT'\n")
	script, _, _ = strings.Cut(script, "\nSCRIPT\n")
	return script + "\n"
}

// A release without a root filesystem has the network and the report of the boot too.
func TestAReleaseWithoutARootfsKeepsTheAddressOfTheBoot(t *testing.T) {
	t.Parallel()
	l, dhcp := newSite(t)
	p, dir := publication(t), t.TempDir()
	artifacts, tree := filepath.Join(dir, "artifacts"), filepath.Join(dir, "tree")
	must(t, "mkdir", "-p", artifacts, tree+"/bin")
	must(t, "cp", fx.path("artifacts/kernel"), artifacts)
	for name, content := range map[string]string{"init": ownInit, "bin/network": networkScript(t)} {
		if err := os.WriteFile(filepath.Join(tree, name), []byte(content), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	// the kernel unpacks the second archive over the first, which has the modules
	must(t, "sh", "-ec", `cp "$(command -v busybox)" "$2/bin/busybox"; cp "$1" "$3/initramfs"
		(cd "$2" && find . | sort | cpio --quiet -o -H newc) | gzip -1 >>"$3/initramfs"`, "sh", fx.path("artifacts/initramfs"), tree, artifacts)
	args := []string{
		fx.bin("phase-sign"), "release", "--repo", "", "--channel", "stable", "--arch", "x86_64", "--release", "2026.12-bare",
		"--kernel", artifacts + "/kernel", "--initramfs", artifacts + "/initramfs", "--cmdline", "console=ttyS0,115200", "--key", fx.path("keys", "release"), "--out", "",
	}
	p.sign(t, artifacts, args)
	p.serve(l.host())
	m := l.boot(fx.path("local.img"))
	m.waitFor([]string{"] network: eth0 10.55", "] kexec: loaded", "] kexec: starting"}, refused)
	said := dhcp.stderr.length()
	m.waitFor([]string{"Linux version", "host=node7", "inet " + m.addressOf() + "/24", "default via 10.55.0.1", "10.55.0.77", "shown"})
	noDHCPAfter(t, dhcp, said)
	if r := shownReport(t, m); r.Steps[len(r.Steps)-1].Name != "kexec" || !strings.Contains(r.Line, "phase.release=2026.12-bare") {
		t.Errorf("the report in the target: %+v", r)
	}
}

// A release whose kernel panics at once is named at the next boot. A good release confirms its start, so the
// boot after it says nothing, and it is booted when the next release is refused.
func TestAStartThatFailedIsNamedAndAGoodOneIsFallenBackTo(t *testing.T) {
	t.Parallel()
	s, p := newStick(t, "phase.mode=edge"), publication(t)
	publish := func(artifacts, version string, more ...string) {
		p.signOwn(t, artifacts, version, more...)
		s.serveMirror(p)
	}
	publish(fx.path("artifacts"), "2026.12-panic", "--cmdline", "console=ttyS0,115200 panic=1 rdinit=/missing")
	m := s.powerOn(s.disk)
	m.waitFor([]string{"] kexec: starting", "Kernel panic"}, refused, "] last start: ")
	m.waitForEnd()

	publish(fx.path("artifacts"), "2026.12-good")
	m = s.powerOn(s.disk)
	m.waitFor([]string{"] last start: stable/x86_64 2026.12-panic, version 2 was started on ", "has not confirmed it", "] kexec: starting", "] last start: confirmed on /dev/vda2", "] switch root: "}, refused)
	m.powerOff()

	artifacts := p.at("artifacts")
	must(t, "cp", "-a", fx.path("artifacts"), artifacts)
	if err := os.Truncate(artifacts+"/kernel", 5<<20); err != nil {
		t.Fatal(err)
	}
	publish(artifacts, "2026.12-cut", "--unchecked")
	for range 2 { // the start of the good release leaves it the good one
		m = s.powerOn(s.disk)
		m.waitFor([]string{
			"] resolve: stable/x86_64 release 2026.12-cut", "kernel of the release: ", "cut short", "the last good release is tried, as mode edge allows",
			"this machine could not boot it", "] resolve: NOT UP TO DATE: the last good release", "] release: 2026.12-good sealed", "] kexec: starting", "] switch root: ",
		}, refused, "] last start: stable")
		m.powerOff()
	}
}
