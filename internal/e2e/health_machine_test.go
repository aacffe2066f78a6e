//go:build machine

package e2e

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unicode/utf16"
)

// healthInit is the init of a small root filesystem. It blesses its start, does nothing, or keeps the processor busy, as
// the command line of its release says.
const healthInit = `#!/bin/busybox sh
export PATH=/bin
exec >/dev/console 2>&1
case $(cat /proc/cmdline) in
*health=bless*) echo "small system: $(/run/phase/phase-boot bless 2>&1)" ;;
*health=hang*) echo "small system: hangs"; while :; do :; done ;;
*) echo "small system: up" ;;
esac
exec sleep 100000
`

// healthArtifacts are those of the fixtures with a small root filesystem.
func healthArtifacts(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	must(t, "cp", "-r", fx.path("artifacts")+"/.", dir)
	must(t, "rm", dir+"/rootfs")
	tree := t.TempDir()
	must(t, "mkdir", "-p", tree+"/bin", tree+"/sbin")
	if err := os.WriteFile(filepath.Join(tree, "sbin/init"), []byte(healthInit), 0o755); err != nil {
		t.Fatal(err)
	}
	must(t, "sh", "-ec", `cp "$(command -v busybox)" "$1/bin/busybox"; for name in sh cat sleep; do ln -s busybox "$1/bin/$name"; done`, "sh", tree)
	must(t, "mksquashfs", tree, dir+"/rootfs", "-quiet", "-no-progress", "-all-root", "-noappend", "-comp", "zstd", "-Xcompression-level", "1")
	return dir
}

// A patient is a stick whose releases ask for a blessing.
type patient struct {
	*stick
	*published
	artifacts string
	vars      string // variable store of the firmware, "" for one that forgets
}

const (
	healthGood  = "2026.12-good"
	healthNext  = "2026.12-next"
	healthFlags = "--bless=5m"
)

func newPatient(t *testing.T, artifacts string) *patient {
	t.Helper()
	return &patient{stick: newStick(t, ""), published: publication(t), artifacts: artifacts}
}

// start boots the machine.
func (p *patient) start() *machine {
	p.t.Helper()
	return p.startQEMUWith([]string{"MEM=1536", "NET=tap:" + p.tap(), "VARS=" + p.vars}, p.disk)
}

// publish publishes a release whose command line says how its system behaves.
func (p *patient) publish(version, cmdline string, more ...string) {
	p.t.Helper()
	p.signOwn(p.t, p.artifacts, version, append([]string{"--cmdline", "console=ttyS0,115200 " + cmdline}, more...)...)
	p.serveMirror(p.published)
}

// setFloor signs the newest release again with another floor of fallbacks.
func (p *patient) setFloor(number int) {
	p.t.Helper()
	must(p.t, fx.bin("phase-sign"), "rollout", "--repo", p.at("repo"), "--channel", "stable", "--arch", "x86_64",
		"--fallback-floor", fmt.Sprint(number), "--key", fx.path("keys/release"), "--out", p.at("floor.json"))
	p.published.publish(p.t, p.artifacts, p.at("floor.json"))
	p.serveMirror(p.published)
}

// runs boots to the last mark and cuts the power.
func (p *patient) runs(marks []string, never ...string) {
	p.t.Helper()
	m := p.start()
	m.waitFor(marks, append(never, refused)...)
	m.powerOff()
}

// restarts boots a release whose start ends by itself.
func (p *patient) restarts(marks []string, never ...string) {
	p.t.Helper()
	m := p.start()
	m.waitFor(marks, append(never, refused)...)
	m.waitForEnd()
}

// starting are the marks of a start of a release.
func starting(version string, more ...string) []string {
	return append([]string{"] release: " + version + " sealed", "] kexec: starting", "phase.release=" + version}, more...)
}

// blessing are the marks of a start that its target blesses.
func blessing(version string) []string {
	return blessingOn("on /dev/vda2", version)
}

// blessingOn names where the start is counted.
func blessingOn(where, version string) []string {
	return starting(version, "] last start: to be blessed "+where+" within 5m0s by phase-boot bless, or the machine restarts", "] switch root: ", "blessed: stable/x86_64 "+version)
}

// fallingBack are the marks of a boot that runs another release in place of a bad one.
func fallingBack(bad, good string) []string {
	return []string{
		"] last start: stable/x86_64 " + bad, "3 starts without a confirmation",
		"fallback: release \"" + bad + "\" was started 3 times and its target has not blessed it; release \"" + good + "\" is booted",
	}
}

// A release whose kernel panics is started three times. Then the machine runs the last release that was blessed, unless
// the floor of fallbacks is above that one, which it says. A newer release is taken. The mode does not allow the last good
// release in place of a newer one.
func TestMachineLeavesAReleaseThatPanics(t *testing.T) {
	t.Parallel()
	const bad = "2026.12-panic"
	p := newPatient(t, healthArtifacts(t))
	p.publish(healthGood, "health=bless", healthFlags)
	p.runs(blessing(healthGood), "] tries: ")
	p.publish(bad, "panic=1 rdinit=/missing", healthFlags)
	for range 3 {
		p.restarts(starting(bad, "Kernel panic"), "fallback: ")
	}
	p.runs(append(fallingBack(bad, healthGood), blessing(healthGood)...))
	p.setFloor(3)
	p.restarts(append([]string{"it is tried again: release number 2: below 3, the oldest one to which machines may fall back"}, starting(bad, "Kernel panic")...))
	p.publish(healthNext, "health=bless next", healthFlags)
	p.runs(blessing(healthNext), "fallback: ")
}

const nobodyBlessed = "bless: nobody has blessed this start within 20s; the machine restarts"

// The system of a release hangs before it reaches its health check. The process of the initramfs restarts the machine.
func TestMachineLeavesAReleaseThatHangs(t *testing.T) {
	t.Parallel()
	const bad = "2026.12-hang"
	p := newPatient(t, healthArtifacts(t))
	p.publish(healthGood, "health=bless", healthFlags)
	p.runs(blessing(healthGood), "] tries: ")
	p.publish(bad, "health=hang", "--bless=20s")
	for range 3 {
		p.restarts(starting(bad, "small system: hangs", nobodyBlessed), "fallback: ")
	}
	p.runs(append(fallingBack(bad, healthGood), blessing(healthGood)...))
	p.publish(healthNext, "health=bless next", healthFlags)
	p.runs(blessing(healthNext), "fallback: ")
}

// A release of phase-image's own root filesystem works and never blesses its start: systemd restarts the machine. The
// release before it is blessed by phase-bless.service.
func TestMachineLeavesAReleaseThatNeverBlesses(t *testing.T) {
	t.Parallel()
	const bad = "2026.12-mute"
	p := newPatient(t, fx.path("artifacts"))
	p.publish(healthGood, "", healthFlags)
	p.runs(blessing(healthGood), "] tries: ")
	p.publish(bad, "systemd.mask=phase-bless.service", "--bless=20s")
	for range 3 {
		p.restarts(starting(bad, nobodyBlessed), "fallback: ")
	}
	p.runs(append(fallingBack(bad, healthGood), blessing(healthGood)...))
}

// A countedStart is what the cache of a disk says about a release.
type countedStart struct {
	Release string
	Starts  int
	Blessed bool
}

// counted reads the counters from a file system, as the next boot does.
func counted(t *testing.T, partition string) (list []countedStart, good string) {
	t.Helper()
	dir := t.TempDir()
	copied := filepath.Join(dir, "copy")
	must(t, "cp", "--sparse=always", partition, copied)
	must(t, "sh", "-c", `e2fsck -p -E journal_only "$1" || [ $? -eq 1 ]`, "sh", copied)
	must(t, "debugfs", "-R", "rdump /start /good "+dir, copied)
	var h struct{ Releases []countedStart }
	if err := json.Unmarshal(readFile(t, filepath.Join(dir, "start/health.json")), &h); err != nil {
		t.Fatalf("the counters are damaged: %v", err)
	}
	return h.Releases, string(readFile(t, filepath.Join(dir, "good/stable-x86_64.json")))
}

// The power is cut after each write of the third start of a release that nobody blesses. Whatever the cut leaves, the
// number of starts is that of before or one more, and the blessed release stays so, with its manifest. Two of the cuts are
// booted: the machine counts on before the turn, and falls back after it.
func TestMachinePowerCutAtEachWriteKeepsTheTries(t *testing.T) {
	t.Parallel()
	const bad = "2026.12-panic"
	p := newPatient(t, healthArtifacts(t))
	p.publish(healthGood, "health=bless", healthFlags)
	p.runs(blessing(healthGood))
	p.publish(bad, "panic=1 rdinit=/missing", healthFlags)
	for range 2 {
		p.restarts(starting(bad, "Kernel panic"))
	}
	before, log, blank := p.disk+".before", filepath.Join(p.stick.dir, "writes"), filepath.Join(p.stick.dir, "blank.img")
	must(t, "cp", "--sparse=always", p.disk, before)
	must(t, "truncate", "-s", "4G", log)
	must(t, "truncate", "-s", "1M", blank)
	m := p.powerOn(blank, loggedDisk(p.disk, log)...)
	m.waitFor(starting(bad, "Kernel panic"), refused, "fallback: ")
	m.powerOff()

	offset, size := cachePartition(t, p.disk)
	partition := filepath.Join(p.stick.dir, "partition")
	must(t, "sh", "-ec", `dd if="$1" of="$2" bs=1M iflag=skip_bytes,count_bytes conv=sparse skip="$3" count="$4" status=none; truncate -s "$4" "$2"`, "sh", before, partition, fmt.Sprint(offset), fmt.Sprint(size))
	f, err := os.OpenFile(partition, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	_, manifest := counted(t, partition)
	writes, starts, turn, cuts := readWriteLog(t, log), 2, -1, 0
	for i, w := range writes {
		if !w.apply(t, f, offset, size) {
			continue
		}
		cuts++
		list, good := counted(t, partition)
		if good != manifest {
			t.Fatalf("after write %d of %d: the manifest of the blessed release has changed", i+1, len(writes))
		}
		var words []string
		for _, c := range list {
			words = append(words, fmt.Sprint(c))
			switch {
			case c.Release == healthGood && c.Blessed:
			case c.Release == bad && c.Starts == starts && !c.Blessed:
			case c.Release == bad && c.Starts == 3 && starts == 2 && !c.Blessed:
				starts, turn = 3, i
			default:
				t.Fatalf("after write %d of %d: %v", i+1, len(writes), list)
			}
		}
		if len(list) != 2 {
			t.Fatalf("after write %d of %d: %s", i+1, len(writes), strings.Join(words, ", "))
		}
	}
	t.Logf("%d writes to the cache partition; the third start is counted by number %d", cuts, turn+1)
	if cuts < 5 || turn < 0 {
		t.Fatal("the third start was not counted")
	}
	for name, tt := range map[string]struct {
		writes int
		marks  []string
		never  string
	}{
		"before the turn it is started again": {turn, starting(bad), "fallback: "},
		"after the turn the blessed one runs": {turn + 1, append(fallingBack(bad, healthGood)[2:], blessing(healthGood)...), "phase.release=" + bad},
	} {
		t.Run(name, func(t *testing.T) {
			p.stick.t = t
			disk := filepath.Join(t.TempDir(), "cut.img")
			must(t, "cp", "--sparse=always", before, disk)
			f, err := os.OpenFile(disk, os.O_RDWR, 0)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			for _, w := range writes[:tt.writes] {
				if _, err := f.WriteAt(w.data, w.at); err != nil {
					t.Fatal(err)
				}
			}
			m := p.powerOn(disk)
			m.waitFor(tt.marks, tt.never, refused)
			m.powerOff()
		})
	}
}

// withoutCache removes the cache partition of the stick, and gives the machine a firmware that keeps its variables.
func (p *patient) withoutCache() {
	p.t.Helper()
	must(p.t, "sgdisk", "--delete=2", p.disk)
	p.vars = filepath.Join(p.stick.dir, "vars")
	must(p.t, "cp", "/usr/share/OVMF/OVMF_VARS_4M.fd", p.vars)
}

// written checks how often the variable was written: the firmware writes each value behind the one before.
func (p *patient) written(want int) {
	p.t.Helper()
	var name []byte
	for _, c := range utf16.Encode([]rune("PhaseBootTries\x00")) {
		name = binary.LittleEndian.AppendUint16(name, c)
	}
	if n := bytes.Count(readFile(p.t, p.vars), name); n != want {
		p.t.Errorf("the variable was written %d times, want %d", n, want)
	}
}

// A machine without a cache partition counts the starts in its firmware, and writes there only before a start that no target
// has blessed and at a blessing. The release to which it falls back is one that the newest manifest carries.
func TestMachineWithoutACacheCountsTriesInItsFirmware(t *testing.T) {
	t.Parallel()
	const bad, variable = "2026.12-panic", "in EFI variable PhaseBootTries"
	p := newPatient(t, healthArtifacts(t))
	p.withoutCache()
	p.publish(healthGood, "health=bless", healthFlags)
	counted := "tries: the starts of release " + healthGood + " are counted in the firmware, EFI variable PhaseBootTries"
	p.runs(append([]string{counted}, blessingOn(variable, healthGood)...))
	p.written(2)
	p.publish(bad, "panic=1 rdinit=/missing", healthFlags, "--earlier=1")
	for range 3 {
		p.restarts(starting(bad, "Kernel panic"), "fallback: ")
	}
	p.written(5)
	p.runs(append(fallingBack(bad, healthGood)[2:], blessingOn(variable, healthGood)...))
	p.written(5)
	p.publish(healthNext, "health=bless next", healthFlags, "--earlier=1")
	p.runs(blessingOn(variable, healthNext), "fallback: ")
	p.written(7)
}

// A mode that writes to no disk does not write to the firmware either.
func TestMachineInPrivateModeWritesNothingToItsFirmware(t *testing.T) {
	t.Parallel()
	p := newPatient(t, healthArtifacts(t))
	p.disk = p.image("--default-mode", "private", "--cmdline", "phase.mirror=http://"+p.mirror.addr+":8080")
	p.withoutCache()
	p.publish(healthGood, "health=bless", healthFlags)
	p.runs(append([]string{"tries: the starts of release " + healthGood + " are not counted: this boot writes to no cache partition"},
		starting(healthGood, "the boot has made no record of this start", "small system: ")...), "the firmware has no EFI variables")
	p.written(0)
}
