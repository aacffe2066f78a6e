package manifest

import (
	"bytes"
	"fmt"
	"io/fs"
	"testing"
)

// contentOf returns the content of a release by its version string, in a manifest.
func contentOf(t *testing.T, manifest []byte, version string) string {
	t.Helper()
	for _, r := range mustOpen(t, manifest).Release().All() {
		if r.Version == version {
			return r.Content()
		}
	}
	t.Fatalf("no release %q", version)
	return ""
}

// distinct gives each release of a manifest a content of its own, and removes the floor.
func distinct(release *Release) {
	release.Cmdline, release.FallbackFloor = release.Version+" newest", 0
	for i := range release.Earlier {
		release.Earlier[i].Cmdline = release.Earlier[i].Version
	}
}

func TestFallback(t *testing.T) {
	r := newRepo(t)
	first := r.files["1.stable-x86_64.json"]
	edge := r.release("edge", "x86_64", "2026.10")
	r.rollOut(distinct)
	p := r.policy("")
	p.Machine = Machine{Groups: []string{"canary"}} // takes number 6
	v := r.boot(r.files, p)
	carried := func(version string) string { return contentOf(t, r.files["7.stable-x86_64.json"], version) }
	began := contentOf(t, first, "2026.10")
	changed := bytes.Replace(first, []byte("console=ttyS0 quiet"), []byte("console=ttyS0 noisy"), 1)
	next := r.manifest("stable", "x86_64", "2027.01")
	newer := r.signed("stable", "x86_64", next, r.owners...).Data
	for name, row := range map[string]struct {
		content string
		saved   []byte
		number  int64
	}{
		"one that the manifest carries":                      {carried("2026.08+a"), nil, 3},
		"one that was kept":                                  {began, first, 1},
		"what was kept is not read if the newest carries it": {carried("2026.09"), []byte("x"), 4},
	} {
		t.Run(name, func(t *testing.T) {
			if f, err := v.Fallback(row.content, row.saved); err != nil || f.Release().ContentNumber() != row.number || f.Release().Content() != row.content || f.Chosen() || !v.Chosen() {
				t.Errorf("number %d: %v", row.number, err)
			}
		})
	}
	for _, row := range []struct {
		name    string
		content string
		saved   []byte
		reason  error
		says    string
	}{
		{"a content that nothing has", "c", first, fs.ErrNotExist, "neither in the newest manifest nor in the one that was kept"},
		{"no manifest was kept", began, nil, fs.ErrNotExist, "wait for a newer release"},
		{"the release itself", carried("2026.10"), first, ErrRollback, `not older than number 6, release "2026.10", which is for this machine`},
		{"a manifest that was changed", began, changed, ErrSignature, "0 of 2 required keys"},
		{"a manifest of another channel", began, edge.Data, ErrPath, `a release of "stable"`},
		{"a manifest that is newer", began, newer, ErrRollback, "newer than version 7"},
		{"no manifest", began, []byte("x"), ErrMalformed, "not JSON"},
	} {
		t.Run(row.name, func(t *testing.T) {
			_, err := v.Fallback(row.content, row.saved)
			refused(t, err, row.reason, row.says)
		})
	}
	r.part(t, "below the floor", func(t *testing.T) {
		r.rollOut(func(release *Release) {
			distinct(release)
			release.Number, release.FallbackFloor = 9, 4
		})
		v := r.boot(r.files, p)
		if f, err := v.Fallback(carried("2026.09"), nil); err != nil || f.Release().Version != "2026.09" {
			t.Errorf("the floor itself: %v", err)
		}
		for number, content := range map[int64]string{1: began, 3: carried("2026.08+a")} {
			_, err := v.Fallback(content, first)
			refused(t, err, ErrRollback, fmt.Sprintf("release number %d: below 4, the oldest one to which machines may fall back, as release %q says", number, "2026.10"))
		}
	})
	r.part(t, "a release that the newest manifest carries, and that was stopped", func(t *testing.T) {
		r.rollOut(func(release *Release) {
			distinct(release)
			release.Number, release.Earlier[0].Rollout = 9, &Rollout{Percent: percent(0)}
		})
		_, err := r.boot(r.files, p).Fallback(carried("2026.09"), first)
		refused(t, err, ErrRollback, `release number 4: stopped, as release "2026.10" says`)
	})
	r.part(t, "keys that were replaced", func(t *testing.T) {
		r.owners = []string{"release-a", "release-c"}
		r.newTargets()
		r.rollOut(func(release *Release) { distinct(release); release.Number = 10 })
		_, err := r.boot(r.files, p).Fallback(began, first)
		refused(t, err, ErrSignature, "wait for a newer release")
	})
}

// Two releases of a manifest may have one content, such as after a rollback. The newest one that the rules allow counts.
func TestFallbackToAContentThatTwoReleasesHave(t *testing.T) {
	r := newRepo(t)
	r.rollOut(func(release *Release) {
		release.FallbackFloor = 0
		release.Earlier[1].Artifacts = release.Earlier[0].Artifacts
	})
	same := contentOf(t, r.files["7.stable-x86_64.json"], "2026.09")
	for group, number := range map[string]int64{"canary": 4, "": 3} { // they take number 6 and number 4
		p := r.policy("")
		p.Machine = Machine{ID: "0", Groups: []string{group}}
		if f, err := r.boot(r.files, p).Fallback(same, nil); err != nil || f.Release().ContentNumber() != number {
			t.Errorf("group %q: %v", group, err)
		}
	}
}

// A release that was stopped for a machine, by 0 % or by a hold, is refused to it also as a fallback.
func TestFallbackNeverReturnsAReleaseThatWasStopped(t *testing.T) {
	for _, row := range []struct {
		name    string
		change  func(*Release)
		groups  []string
		stopped []int64
		older   int64
	}{
		{"0 % for all", func(release *Release) { release.Rollout = &Rollout{Percent: percent(0)} }, nil, []int64{6}, 3},
		{"a hold on the release before", func(release *Release) {
			release.Rollout = &Rollout{Hold: []string{"lab"}}
			release.Earlier[0].Rollout = nil
		}, []string{"lab"}, []int64{6}, 3},
		{"a hold on the oldest", func(*Release) {}, []string{"lab"}, []int64{6, 4}, 1},
	} {
		t.Run(row.name, func(t *testing.T) {
			r := newRepo(t)
			first := r.files["1.stable-x86_64.json"]
			r.rollOut(distinct)
			before := r.files["7.stable-x86_64.json"]
			r.rollOut(func(release *Release) {
				r.numbers["stable-x86_64"] = 8
				release.Number = 8
				distinct(release)
				row.change(release)
			})
			p := r.policy("")
			p.Machine = Machine{ID: "0", Groups: row.groups}
			v := r.boot(r.files, p)
			versions := map[int64]string{1: "2026.10", 3: "2026.08+a", 4: "2026.09", 6: "2026.10"}
			for _, number := range row.stopped {
				_, err := v.Fallback(contentOf(t, before, versions[number]), before)
				refused(t, err, ErrRollback, fmt.Sprintf("release number %d: not older than number", number))
			}
			saved := map[bool][]byte{true: first, false: before}[row.older == 1]
			if f, err := v.Fallback(contentOf(t, saved, versions[row.older]), saved); err != nil || f.Release().ContentNumber() != row.older {
				t.Errorf("number %d: %v", row.older, err)
			}
		})
	}
}
