package manifest

import (
	"bytes"
	"fmt"
	"io/fs"
	"testing"
)

func TestFallback(t *testing.T) {
	r := newRepo(t)
	first := r.files["1.stable-x86_64.json"]
	edge := r.release("edge", "x86_64", "2026.10")
	r.rollOut(func(release *Release) { release.FallbackFloor = 0 })
	v := r.boot(r.files, r.policy(""))
	version := func(number int64, saved []byte) string {
		t.Helper()
		f, err := v.Fallback(number, saved)
		if err != nil {
			t.Errorf("number %d: %v", number, err)
			return ""
		}
		return f.Release().Version
	}
	if got := version(3, nil); got != "2026.08+a" {
		t.Errorf("number 3 is %q", got)
	}
	if got := version(6, nil); got != "2026.10" {
		t.Errorf("number 6 is %q", got)
	}
	if got := version(1, first); got != "2026.10" {
		t.Errorf("number 1 of the manifest that was kept is %q", got)
	}
	changed := bytes.Replace(first, []byte("console=ttyS0 quiet"), []byte("console=ttyS0 noisy"), 1)
	newer := r.manifest("stable", "x86_64", "2027.01")
	for _, row := range []struct {
		name   string
		number int64
		saved  []byte
		reason error
		says   string
	}{
		{"a number that nothing has", 5, first, fs.ErrNotExist, "neither in the newest manifest nor in the one that was kept"},
		{"no manifest was kept", 1, nil, fs.ErrNotExist, "wait for a newer release"},
		{"a manifest that was changed", 1, changed, ErrSignature, "0 of 2 required keys"},
		{"a manifest of another channel", 1, edge.Data, ErrPath, `a release of "stable"`},
		{"a manifest that is newer", 8, r.signed("stable", "x86_64", newer, r.owners...).Data, ErrRollback, "newer than version 7"},
		{"no manifest", 1, []byte("x"), ErrMalformed, "not JSON"},
	} {
		t.Run(row.name, func(t *testing.T) {
			_, err := v.Fallback(row.number, row.saved)
			refused(t, err, row.reason, row.says)
		})
	}
	r.part(t, "below the floor", func(t *testing.T) {
		r.rollOut(func(release *Release) { release.Number = 9; release.FallbackFloor = 4 })
		v := r.boot(r.files, r.policy(""))
		if f, err := v.Fallback(4, nil); err != nil || f.Release().Version != "2026.09" {
			t.Errorf("the floor itself: %v", err)
		}
		for _, number := range []int64{1, 3} {
			_, err := v.Fallback(number, first)
			refused(t, err, ErrRollback, fmt.Sprintf("release number %d: below 4, the oldest one to which machines may fall back, as release %q says", number, "2026.10"))
		}
	})
	r.part(t, "keys that were replaced", func(t *testing.T) {
		r.owners = []string{"release-a", "release-c"}
		r.newTargets()
		r.rollOut(func(release *Release) { release.Number = 10; release.FallbackFloor = 0 })
		_, err := r.boot(r.files, r.policy("")).Fallback(1, first)
		refused(t, err, ErrSignature, "wait for a newer release")
	})
}
