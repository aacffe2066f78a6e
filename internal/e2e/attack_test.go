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

// The attacks on metadata and time that a whole machine must refuse: a disk that is kept
// from boot to boot, a clock that QEMU sets, and the words on the console.

const (
	resolved = "] resolve: stable/x86_64 release " + release
	jump     = "] kexec: "
)

// A stick is an image that is kept: what one boot writes, the next one finds. Its only
// source is a web mirror at one address, where now this and now that publisher stands.
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

// newStickBy has the image built by another phase-image, with more arguments.
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

// hears puts a publisher in the place of the one before.
func (s *stick) hears(p *published) {
	s.t.Helper()
	s.stop()
	at := s.mirror.addr
	d := s.mirror.start(s.mirror.ns, fx.bin("phase-publish"), "serve", "--store", p.at("store"), "--repo", p.at("repo"),
		"--online-key", p.online, "--ipns-key", fx.path("keys/ipns"), "--identity", p.at("peer.key"),
		"--http", at+":8080", "--listen", "/ip4/"+at+"/tcp/4001", "--mdns=false", "--dht", "off")
	d.ready(s.t)
	s.stop = d.stop
}

// boots starts the stick at a time, waits for the marks on its console, and cuts the power.
func (s *stick) boots(at time.Time, marks []string, forbidden ...string) {
	s.t.Helper()
	m := s.power(s.disk, "-rtc", "base="+at.UTC().Format("2006-01-02T15:04:05"))
	m.sees(marks, forbidden...)
	m.cut()
}

// forget makes a new, empty filesystem of the cache partition.
func (s *stick) forget() {
	s.t.Helper()
	info := must(s.t, "sgdisk", "-i", "2", s.disk)
	sectors := func(what string) int64 {
		m := regexp.MustCompile(what + `: (\d+)`).FindSubmatch(info)
		if m == nil {
			s.t.Fatalf("no %q in %q", what, info)
		}
		n, err := strconv.ParseInt(string(m[1]), 10, 64)
		if err != nil {
			s.t.Fatal(err)
		}
		return n
	}
	must(s.t, "mke2fs", "-q", "-F", "-t", "ext4", "-L", "PHASE-CACHE", "-E", fmt.Sprintf("offset=%d", sectors("First sector")*512),
		s.disk, fmt.Sprintf("%dk", sectors("Partition size")/2))
}

// A published is a repository and its store, which may be changed, begun from a copy of
// the fixtures'.
type published struct{ dir, online string }

func publication(t *testing.T) *published {
	t.Helper()
	p := &published{t.TempDir(), fx.path("keys/online")}
	must(t, "cp", "-a", fx.path("store"), fx.path("repo"), p.dir)
	return p
}

func (p *published) at(name string) string { return filepath.Join(p.dir, name) }

// add publishes a release of a version that nobody has signed yet.
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

func TestAttackOnAMachineThatRemembers(t *testing.T) {
	t.Parallel()
	now := time.Now()
	s, honest, thief := newStick(t, ""), publication(t), publication(t)
	if !t.Run("the honest twin boots under root 1", func(t *testing.T) {
		s.t = t
		s.hears(honest)
		s.boots(now, []string{"] state: nothing is remembered of this repository", resolved}, refused)
	}) {
		return
	}

	// The online key was stolen, and root 2 revokes it. The thief withholds root 2, and signs
	// with the revoked key what is newer than all that the machine has seen.
	honest.online = honest.at("online2")
	must(t, fx.bin("phase-sign"), "key", "generate", "--no-passphrase", "--out", honest.online)
	must(t, fx.bin("phase-sign"), "rotate", "--repo", honest.at("repo"), "--key", fx.path("keys/root"), "--online-key", honest.online+".pub")
	honest.publish(t, fx.path("release.json"))
	thief.add(t, "2026.12-thief")

	for _, row := range []struct {
		name      string
		source    *published
		at        time.Time
		marks     []string
		forbidden string
	}{
		{"the honest twin follows root 2", honest, now, []string{resolved}, refused},
		{
			"root 2 is withheld and the revoked key signs", thief, now,
			[]string{refused, "timestamp.json version", "signed by 0 of 1 required keys", "built-in shell"},
			jump,
		},
		{
			"frozen beyond its end, or a clock in the future", honest, now.Add(60 * 24 * time.Hour),
			[]string{refused, "expired on", "set the clock right", "built-in shell"},
			jump,
		},
		{
			"a clock in the past, which the honest twin survives", honest, time.Date(2001, 1, 1, 0, 0, 0, 0, time.UTC),
			[]string{"RTC 2001-01-01", "is before the build of this image; clock set to 20", resolved},
			refused,
		},
	} {
		t.Run(row.name, func(t *testing.T) {
			s.t = t
			s.hears(row.source)
			s.boots(row.at, row.marks, row.forbidden)
		})
	}

	t.Run("what it remembers is deleted: it boots by its own root, as it says", func(t *testing.T) {
		s.t = t
		s.forget()
		s.hears(thief)
		s.boots(now, []string{"] state: nothing is remembered of this repository", "] resolve: stable/x86_64 release 2026.12-thief"}, refused)
	})
}

// A mode may prefer the last good release to none. It never takes what is new from metadata
// that has expired.
func TestAttackFreezeOfAMachineThatMayStayBehind(t *testing.T) {
	t.Parallel()
	boot, image := steady(t)
	s, p := newStickBy(t, image, "phase.mode=steady", "--phase-boot", boot), publication(t)
	s.hears(p)
	s.boots(time.Now(), []string{resolved}, refused)
	p.add(t, "2026.12-new")
	s.hears(p)
	s.boots(time.Now().Add(60*24*time.Hour), []string{
		"expired on", "] resolve: NOT UP TO DATE: the last good release, as mode steady allows", "] release: " + release + " sealed", jump,
	}, refused, "release: 2026.12-new")
}

// steady builds phase-boot and phase-image with one more mode, which is a file.
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

// A kernel that would crash the machine at the jump is refused before it, whoever signed
// it: with half of a bzImage the machine would restart for ever.
func TestAttackOfAKernelCutShort(t *testing.T) {
	t.Parallel()
	l, p := newLAN(t), publication(t)
	must(t, "cp", "-a", fx.path("artifacts"), p.at("artifacts"))
	kernel := p.at("artifacts/kernel")
	if err := os.Truncate(kernel, int64(len(readFile(t, kernel))/2)); err != nil {
		t.Fatal(err)
	}
	args := signRelease(fx, "", "release", "2026.12-cut", "", "--unchecked")
	for i, value := range map[string]string{"--repo": p.at("repo"), "--out": p.at("cut.json"), "--kernel": kernel} {
		args[slices.Index(args, i)+1] = value
	}
	must(t, args[0], args[1:]...)
	must(t, fx.bin("phase-publish"), "add", "--store", p.at("store"), "--repo", p.at("repo"), "--artifacts", p.at("artifacts"), "--online-key", p.online, p.at("cut.json"))
	h := l.host()
	h.serve(fx.bin("phase-publish"), "serve", "--store", p.at("store"), "--repo", p.at("repo"), "--online-key", p.online, "--ipns-key", fx.path("keys/ipns"),
		"--identity", p.at("peer.key"), "--http", h.addr+":8080", "--listen", "/ip4/"+h.addr+"/tcp/4001", "--dht", "off")
	l.boot(fx.path("local.img")).sees([]string{
		"] resolve: stable/x86_64 release 2026.12-cut", refused, "kernel of the release: ", "cut short", "the release is faulty", "built-in shell",
	}, "] kexec: starting")
}
