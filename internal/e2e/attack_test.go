package e2e

import (
	"fmt"
	"os"
	"regexp"
	"strconv"
	"testing"
	"time"
)

// Attacks on metadata and time against a whole machine. The disk is kept from boot to boot,
// QEMU sets the clock, and the console shows the result.

const (
	resolved = "] resolve: stable/x86_64 release " + release
	jump     = "] kexec: "
)

// A stick is a disk that is kept from boot to boot. Its only source is a web mirror at one
// address, where the test starts one publisher after the other.
type stick struct {
	*lan
	mirror host
	disk   string
	stop   func()
}

func newStick(t *testing.T, cmdline string) *stick {
	t.Helper()
	l := newLAN(t)
	mirror := l.host()
	disk := l.image("--default-mode", "internet", "--cmdline", fmt.Sprintf("phase.mirror=http://%s:8080 %s", mirror.addr, cmdline))
	return &stick{l, mirror, disk, func() {}}
}

// serveMirror starts a publisher at the mirror's address in place of the previous one.
func (s *stick) serveMirror(p *published) {
	s.t.Helper()
	s.stop()
	s.stop = p.serve(s.mirror, "--mdns=false").stop
}

// bootAt boots the stick with a clock, waits for the marks on its console, and powers it off.
func (s *stick) bootAt(at time.Time, marks []string, forbidden ...string) {
	s.t.Helper()
	m := s.powerOn(s.disk, "-rtc", "base="+at.UTC().Format("2006-01-02T15:04:05"))
	m.waitFor(marks, forbidden...)
	m.powerOff()
}

// clearCache makes a new, empty filesystem on the cache partition.
func (s *stick) clearCache() {
	s.t.Helper()
	formatCache(s.t, s.disk)
}

// formatCache makes a new filesystem on the cache partition of a disk, with more arguments of mke2fs.
func formatCache(t *testing.T, disk string, more ...string) {
	t.Helper()
	first, size := cachePartition(t, disk)
	args := append([]string{"-q", "-F", "-t", "ext4", "-L", "PHASE-CACHE", "-E", fmt.Sprintf("offset=%d", first)}, more...)
	must(t, "mke2fs", append(args, disk, fmt.Sprintf("%dk", size/1024))...)
}

// cachePartition returns where the cache partition of a disk begins, and its size in bytes.
func cachePartition(t *testing.T, disk string) (first, size int64) {
	t.Helper()
	info := must(t, "sgdisk", "-i", "2", disk)
	bytes := func(what string) int64 {
		m := regexp.MustCompile(what + `: (\d+)`).FindSubmatch(info)
		if m == nil {
			t.Fatalf("no %q in %q", what, info)
		}
		n, err := strconv.ParseInt(string(m[1]), 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		return n * 512
	}
	return bytes("First sector"), bytes("Partition size")
}

func TestAttackOnAMachineWithSavedState(t *testing.T) {
	t.Parallel()
	now := time.Now()
	s, original, attacker := newStick(t, ""), publication(t), publication(t)
	if !t.Run("the original release boots under root 1", func(t *testing.T) {
		s.t = t
		s.serveMirror(original)
		s.bootAt(now, []string{"] state: no saved metadata of this repository", resolved}, refused)
	}) {
		return
	}

	// The online key was stolen, and root 2 revokes it. The attacker withholds root 2, and signs
	// newer metadata with the revoked key.
	original.online = original.at("online2")
	must(t, fx.bin("phase-sign"), "key", "generate", "--no-passphrase", "--out", original.online)
	must(t, fx.bin("phase-sign"), "rotate", "--repo", original.at("repo"), "--key", fx.path("keys/root"), "--online-key", original.online+".pub")
	original.publish(t, fx.path("artifacts"), fx.path("release.json"))
	attacker.add(t, "2026.12-attacker")

	for _, row := range []struct {
		name      string
		source    *published
		at        time.Time
		marks     []string
		forbidden string
	}{
		{"the original release boots under root 2", original, now, []string{resolved}, refused},
		{
			"root 2 is withheld and the revoked key signs", attacker, now,
			[]string{refused, "timestamp.json version", "signed by 0 of 1 required keys", menuShown},
			jump,
		},
		{
			"freeze after the expiry, or a clock in the future", original, now.Add(60 * 24 * time.Hour),
			[]string{refused, "expired on", "set the clock right", menuShown},
			jump,
		},
		{
			"a clock in the past does not prevent the boot", original, time.Date(2001, 1, 1, 0, 0, 0, 0, time.UTC),
			[]string{"RTC 2001-01-01", "is before the build of this image; clock set to 20", resolved},
			refused,
		},
	} {
		t.Run(row.name, func(t *testing.T) {
			s.t = t
			s.serveMirror(row.source)
			s.bootAt(row.at, row.marks, row.forbidden)
		})
	}

	t.Run("without its saved state, the machine boots by its own root and reports that", func(t *testing.T) {
		s.t = t
		s.clearCache()
		s.serveMirror(attacker)
		s.bootAt(now, []string{"] state: no saved metadata of this repository", "] resolve: stable/x86_64 release 2026.12-attacker"}, refused)
	})
}

// A mode may allow the last good release when metadata have expired. It never allows a new
// release from expired metadata.
func TestAttackFreezeInAModeThatAllowsStaleMetadata(t *testing.T) {
	t.Parallel()
	s, p := newStick(t, "phase.mode=edge"), publication(t)
	s.serveMirror(p)
	s.bootAt(time.Now(), []string{resolved}, refused)
	p.add(t, "2026.12-new")
	s.serveMirror(p)
	s.bootAt(time.Now().Add(60*24*time.Hour), []string{
		"expired on", "] resolve: NOT UP TO DATE: the last good release, as mode edge allows", "] release: " + release + " sealed", jump,
	}, refused, "release: 2026.12-new")
}

// A truncated kernel is refused before kexec, although its signature is valid: with half of a
// bzImage the machine would reset in a loop.
func TestAttackTruncatedKernel(t *testing.T) {
	t.Parallel()
	l, p := newLAN(t), publication(t)
	must(t, "cp", "-a", fx.path("artifacts"), p.at("artifacts"))
	kernel := p.at("artifacts/kernel")
	if err := os.Truncate(kernel, int64(len(readFile(t, kernel))/2)); err != nil {
		t.Fatal(err)
	}
	p.signOwn(t, p.at("artifacts"), "2026.12-cut", "--unchecked")
	p.serve(l.host())
	l.boot(fx.path("local.img")).waitFor([]string{
		"] resolve: stable/x86_64 release 2026.12-cut", refused, "kernel of the release: ", "cut short", "the release is faulty", menuShown,
	}, "] kexec: starting")
}
