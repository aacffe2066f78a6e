//go:build machine

package e2e

import (
	"crypto/sha256"
	"fmt"
	"testing"
	"time"

	"github.com/phaseboot/phaseboot/manifest"
)

// Release 2.0 goes to half of the machines and not to group lab. The firmware's UUID decides: one machine is inside and
// boots it, one is outside and boots the release from before, which the same manifest carries, and the first one stays on
// that too when it is in group lab.
func TestMachineTakesTheReleaseOfItsRollout(t *testing.T) {
	t.Parallel()
	l, p := newLAN(t), publication(t)
	p.signOwn(t, fx.path("artifacts"), "2.0", "--rollout", "50%", "--hold", "lab")
	p.serve(l.host())
	stick := l.image("--default-mode", "local")
	inside, outside := systemUUID("2.0", true), systemUUID("2.0", false)
	taken := func(version string) []string {
		return []string{"] resolve: stable/x86_64 release " + version, started, "Linux version", "phase.release=" + version}
	}
	earlier := append([]string{"] roll-out: release 2.0 is the newest, and not for this machine; it takes " + release}, taken(release)[1:]...)

	m := l.boot(stick, "-uuid", inside)
	m.waitFor(taken("2.0"), refused, "roll-out:")
	m.waitFor([]string{"plasmd: receipt {"}, refused)
	m.powerOff()

	m = l.boot(stick, "-uuid", outside)
	m.waitFor(earlier, refused)
	m.powerOff()

	lab := l.image("--default-mode", "local", "--cmdline", "phase.group=lab")
	m = l.boot(lab, "-uuid", inside)
	m.waitFor(earlier, refused)
	m.powerOff()
}

// systemUUID returns a UUID of a system that is inside or outside of half of the machines, for a release.
func systemUUID(version string, inside bool) string {
	half := 50
	r := manifest.Release{Channel: "stable", Version: version, Rollout: &manifest.Rollout{Percent: &half}}
	for i := 1; ; i++ {
		uuid := fmt.Sprintf("4c4c4544-0043-3510-8052-%012x", i)
		id := fmt.Sprintf("%x", sha256.Sum256([]byte("phaseboot machine\x00"+uuid)))
		if r.Includes(manifest.Machine{ID: id}, time.Time{}) == inside {
			return uuid
		}
	}
}
