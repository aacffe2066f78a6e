package bootclient_test

import (
	"strings"
	"testing"
	"time"

	"github.com/phaseboot/phaseboot/bootclient/report"
	"github.com/phaseboot/phaseboot/manifest"
)

// rolledOut is a repository whose release 2 is for group canary; release 1 is beside it. It returns it as a
// repository of each of the two.
func rolledOut(t *testing.T) (first, second *repo) {
	r := newRepo(t, "us", manifest.Discovery{})
	d, err := manifest.Open(r.files["1.stable-x86_64.json"])
	ok(t, err)
	first = r.frozen()
	r.change = func(rel *manifest.Release) {
		earlier := *d.Release()
		earlier.First = 1
		rel.Rollout, rel.Earlier = &manifest.Rollout{Groups: []string{"canary"}}, []manifest.Release{earlier}
	}
	r.release("2", map[string][]byte{"kernel": content(1, 300<<10), "initramfs": content(2, 700<<10), "rootfs": content(5, 4<<20+12345)})
	first.store, first.files, first.directory, first.record, first.stamp = r.store, r.files, r.directory, r.record, r.stamp
	return first, r
}

// A machine outside of a roll-out fetches the earlier release, says so, and serves it to others. A machine inside
// fetches the newest one from the same pointer.
func TestAMachineTakesTheReleaseOfItsRollout(t *testing.T) {
	t.Parallel()
	first, second := rolledOut(t)
	s := serve(t, second, nil)

	in := newMachine(t, second, "private")
	in.cfg.Machine.Groups, in.cfg.Mirrors = []string{"canary"}, []string{s.URL}
	var said strings.Builder
	in.cfg.Report = report.New(time.Now(), &said)
	in.boots(second)
	if strings.Contains(said.String(), "roll-out") {
		t.Errorf("a machine inside says %s", said.String())
	}

	cache := t.TempDir()
	out := newMachine(t, first, "private")
	out.cfg.Mode, out.cfg.Cache, out.cfg.Mirrors = swarmMode, cache, []string{s.URL}
	said.Reset()
	out.cfg.Report = report.New(time.Now(), &said)
	out.boots(first)
	const want = "roll-out: release 2 is the newest, and not for this machine; it takes 1\n"
	if !strings.Contains(said.String(), want) {
		t.Errorf("a machine outside does not say %q:\n%s", want, said.String())
	}

	// The seed has the earlier release as a whole, and a folder of files of that one; the rootfs of the other has its length.
	cfg := out.cfg
	cfg.Report, cfg.Mirrors, cfg.Artifacts = nil, nil, out.out
	ready, stop := seeds(t, cfg)
	if ready.Release != "1" {
		t.Errorf("the seed serves %+v", ready)
	}
	origin := loopback(t, ready)
	if n := ones(have(t, origin, second.cids["rootfs"])); n != 0 {
		t.Errorf("the seed says that it has %d leaves of the rootfs of the other release", n)
	}
	third := newMachine(t, first, "private")
	third.cfg.Mirrors = []string{origin}
	third.boots(first)
	ok(t, stop())

	// Without a source, the last good release is that of the same machine.
	s.Close()
	again := newMachine(t, first, "private")
	again.cfg.Mode, again.cfg.Cache, again.cfg.LastGood = swarmMode, cache, true
	again.boots(first)
}
