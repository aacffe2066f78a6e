package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
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
	return newStickBy(t, fx.bin("phase-image"), cmdline)
}

// newStickBy builds the image with another phase-image and more arguments.
func newStickBy(t *testing.T, builder, cmdline string, more ...string) *stick {
	t.Helper()
	l := newLAN(t)
	s := &stick{l, l.host(), filepath.Join(l.dir, "stick.img"), func() {}}
	must(t, builder, append([]string{
		"usb", "--root", fx.path("repo/root.json"), "--default-mode", "internet", "--size", "512M", "--out", s.disk,
		"--cmdline", fmt.Sprintf("phase.mirror=http://%s:8080 %s", s.mirror.addr, cmdline),
	}, more...)...)
	return s
}

// serveMirror starts a publisher at the mirror's address in place of the previous one.
func (s *stick) serveMirror(p *published) {
	s.t.Helper()
	s.stop()
	at := s.mirror.addr
	d := s.mirror.start(s.mirror.ns, fx.bin("phase-publish"), "serve", "--store", p.at("store"), "--repo", p.at("repo"),
		"--online-key", p.online, "--ipns-key", fx.path("keys/ipns"), "--identity", p.at("peer.key"),
		"--http", at+":8080", "--listen", "/ip4/"+at+"/tcp/4001", "--mdns=false", "--dht", "off")
	d.ready(s.t)
	s.stop = d.stop
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

// A published is a writable copy of the fixtures' repository and store.
type published struct{ dir, online string }

func publication(t *testing.T) *published {
	t.Helper()
	p := &published{t.TempDir(), fx.path("keys/online")}
	must(t, "cp", "-a", fx.path("store"), fx.path("repo"), p.dir)
	return p
}

func (p *published) at(name string) string { return filepath.Join(p.dir, name) }

// add signs and publishes a release with a new version.
func (p *published) add(t *testing.T, version string) {
	t.Helper()
	file := p.at(version + ".json")
	args := signRelease(fx, "", "release", version, "")
	for i := range args {
		switch args[i] {
		case "--repo":
			args[i+1] = p.at("repo")
		case "--out":
			args[i+1] = file
		}
	}
	must(t, args[0], args[1:]...)
	p.publish(t, file)
}

func (p *published) publish(t *testing.T, file string) {
	t.Helper()
	must(t, fx.bin("phase-publish"), "add", "--store", p.at("store"), "--repo", p.at("repo"), "--artifacts", fx.path("artifacts"),
		"--online-key", p.online, file)
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
	original.publish(t, fx.path("release.json"))
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
	boot, image := steady(t)
	s, p := newStickBy(t, image, "phase.mode=steady", "--phase-boot", boot), publication(t)
	s.serveMirror(p)
	s.bootAt(time.Now(), []string{resolved}, refused)
	p.add(t, "2026.12-new")
	s.serveMirror(p)
	s.bootAt(time.Now().Add(60*24*time.Hour), []string{
		"expired on", "] resolve: NOT UP TO DATE: the last good release, as mode steady allows", "] release: " + release + " sealed", jump,
	}, refused, "release: 2026.12-new")
}

// steady builds phase-boot and phase-image with one more mode file.
func steady(t *testing.T) (boot, image string) {
	t.Helper()
	dir := t.TempDir()
	var mode map[string]any
	decode(t, readFile(t, "../../modes/internet.json"), &mode)
	mode["name"], mode["title"], mode["stale"] = "steady", "Phase Boot (steady)", "last-good"
	write := func(name string, v any) string {
		data, err := json.Marshal(v)
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, name), data, 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
		return filepath.Join(dir, name)
	}
	at, err := filepath.Abs("../../modes/steady.json")
	if err != nil {
		t.Fatal(err)
	}
	overlay := write("overlay.json", map[string]any{"Replace": map[string]string{at: write("steady.json", mode)}})
	must(t, "env", "CGO_ENABLED=0", "go", "build", "-trimpath", "-buildvcs=false", "-ldflags", "-s -w", "-overlay", overlay, "-o", dir+"/", "../../cmd/phase-boot", "../../cmd/phase-image")
	return filepath.Join(dir, "phase-boot"), filepath.Join(dir, "phase-image")
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
	p.sign(t, p.at("artifacts"), signRelease(fx, "", "release", "2026.12-cut", "", "--unchecked", "--kernel", kernel))
	p.serve(l.host())
	l.boot(fx.path("local.img")).waitFor([]string{
		"] resolve: stable/x86_64 release 2026.12-cut", refused, "kernel of the release: ", "cut short", "the release is faulty", menuShown,
	}, "] kexec: starting")
}

// sign signs a release with the arguments of signRelease and publishes its artifacts.
func (p *published) sign(t *testing.T, artifacts string, args []string) {
	t.Helper()
	for name, value := range map[string]string{"--repo": p.at("repo"), "--out": p.at("own.json")} {
		args[slices.Index(args, name)+1] = value
	}
	must(t, args[0], args[1:]...)
	must(t, fx.bin("phase-publish"), "add", "--store", p.at("store"), "--repo", p.at("repo"), "--artifacts", artifacts, "--online-key", p.online, p.at("own.json"))
}

// serve serves the publication from a host.
func (p *published) serve(h host) {
	h.t.Helper()
	h.serve(fx.bin("phase-publish"), "serve", "--store", p.at("store"), "--repo", p.at("repo"), "--online-key", p.online, "--ipns-key", fx.path("keys/ipns"),
		"--identity", p.at("peer.key"), "--http", h.addr+":8080", "--listen", "/ip4/"+h.addr+"/tcp/4001", "--dht", "off")
}
