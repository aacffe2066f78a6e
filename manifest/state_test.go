package manifest

import (
	"context"
	"errors"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// stateFiles lists the paths of the files in a state.
func stateFiles(t *testing.T, dir string) []string {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(dir, "*", "*.json"))
	if err != nil {
		t.Fatal(err)
	}
	return found
}

func TestADamagedStateNeverPreventsABoot(t *testing.T) {
	damage := map[string]func(path string) error{
		"empty":     func(p string) error { return os.Truncate(p, 0) },
		"cut short": func(p string) error { return os.Truncate(p, 100) },
		"garbled":   func(p string) error { return os.WriteFile(p, []byte("{\"signed\": null}"), 0o600) },
		"a bit flipped": func(p string) error {
			data, err := os.ReadFile(p)
			if err == nil {
				data[len(data)/2] ^= 1
				err = os.WriteFile(p, data, 0o600)
			}
			return err
		},
		"enormous": func(p string) error { return os.Truncate(p, 1<<30) },
		"a folder": func(p string) error { return errors.Join(os.Remove(p), os.Mkdir(p, 0o700)) },
		"a symlink": func(p string) error {
			return errors.Join(os.Remove(p), os.Symlink("/dev/zero", p))
		},
		"a fifo": func(p string) error { return errors.Join(os.Remove(p), syscall.Mkfifo(p, 0o600)) },
	}
	for name, do := range damage {
		t.Run(name, func(t *testing.T) {
			for i := range 6 {
				r, dir := newRepo(t), t.TempDir()
				p := r.policy(dir)
				r.newRoot(r.roots...)
				r.publish()
				r.boot(r.files, p)
				all := stateFiles(t, dir)
				if len(all) != 6 {
					t.Fatalf("the state has %q", all)
				}
				file := filepath.Base(all[i])
				r.ok(do(all[i]))
				if v := r.boot(r.files, p); len(v.Notes()) == 0 && file != "1.root.json" && name != "a bit flipped" {
					t.Errorf("%s: ignored without a note", file)
				}
				if v := r.boot(r.files, p); len(v.Notes()) != 0 {
					t.Errorf("%s: not repaired: %q", file, v.Notes())
				}
			}
		})
	}
}

// After the state was deleted, the machine boots as for the first time, and reports it.
func TestAttackDeletedState(t *testing.T) {
	r, dir := newRepo(t), t.TempDir()
	old := maps.Clone(r.files)
	if v := r.boot(r.files, r.policy(dir)); !v.First() {
		t.Error("the first boot is not reported as one")
	}
	r.publish(r.release("stable", "x86_64", "2026.11"))
	t.Run("valid case: with the state", func(t *testing.T) {
		if v := r.boot(r.files, r.policy(dir)); v.First() {
			t.Error("reported as the first boot")
		}
		_, err := Verify(context.Background(), old, r.policy(dir))
		refused(t, err, ErrRollback, "older than version 2")
	})
	t.Run("deleted", func(t *testing.T) {
		r.ok(os.RemoveAll(dir))
		if v := r.boot(old, r.policy(dir)); !v.First() || v.Release().Version != "2026.10" {
			t.Errorf("first %t, release %s", v.First(), v.Release().Version)
		}
	})
	t.Run("deleted, with an image of a newer date", func(t *testing.T) {
		r.ok(os.RemoveAll(dir))
		p := r.policy(dir)
		p.Now, p.Floor = time.Unix(0, 0), today.Add(2*day)
		_, err := Verify(context.Background(), old, p)
		refused(t, err, ErrExpired, "and it is 2026-10-03")
	})
}

func TestStateIsWrittenOnlyAfterAllPassed(t *testing.T) {
	r, dir := newRepo(t), t.TempDir()
	p := r.policy(dir)
	r.boot(r.files, p)
	before := tree(t, dir)
	r.newRoot(r.roots...)
	r.publish(r.newTargets(), r.signed("stable", "x86_64", r.manifest("stable", "x86_64", "evil"), "other-key"))
	_, err := Verify(context.Background(), r.files, p)
	refused(t, err, ErrSignature, "stable-x86_64.json version 2")
	if after := tree(t, dir); !maps.Equal(before, after) {
		t.Error("a part of a refused set was kept")
	}
}

func TestStateOfTwoRepositoriesIsKeptApart(t *testing.T) {
	a, b, dir := newRepo(t), newRepo(t), t.TempDir()
	b.files, b.roots, b.rootNo, b.targets, b.snap, b.time = files{}, []string{"other"}, 0, 0, nil, nil
	b.numbers = map[string]int64{}
	b.newRoot(b.roots...)
	b.root = b.files["1.root.json"]
	b.newTargets()
	b.publish(b.release("stable", "x86_64", "other"))
	a.stamp(a.online)
	a.boot(a.files, a.policy(dir))
	if v := b.boot(b.files, b.policy(dir)); v.TimestampVersion() != 1 || len(v.Notes()) != 0 {
		t.Errorf("timestamp %d, notes %q", v.TimestampVersion(), v.Notes())
	}
	if v := a.boot(a.files, a.policy(dir)); v.TimestampVersion() != 2 || len(v.Notes()) != 0 {
		t.Errorf("timestamp %d, notes %q", v.TimestampVersion(), v.Notes())
	}
}

func TestStateIsFoundByAMachineWithANewerRoot(t *testing.T) {
	r, dir := newRepo(t), t.TempDir()
	r.boot(r.files, r.policy(dir))
	all := append(r.roots, "root-c")
	r.roots = []string{"root-c"} // the root keys are all new
	r.newRoot(all...)
	r.publish(r.newTargets())
	old := maps.Clone(r.files)
	r.stamp(r.online)
	r.boot(r.files, r.policy(dir))
	r.root = r.files["2.root.json"] // a new image
	r.boot(old, r.policy(""))       // accepted without a state
	_, err := Verify(context.Background(), old, r.policy(dir))
	refused(t, err, ErrRollback, "timestamp.json version 2: older than version 3")
	r.boot(r.files, r.policy(dir))
	if all, err := os.ReadDir(dir); err != nil || len(all) != 1 {
		t.Errorf("%d folders, %v", len(all), err)
	}
}

func TestStateThatCannotBeWrittenIsANote(t *testing.T) {
	r, dir := newRepo(t), filepath.Join(t.TempDir(), "state")
	p := r.policy(dir)
	r.ok(os.Remove(dir))
	if v := r.boot(r.files, p); !strings.Contains(strings.Join(v.Notes(), "\n"), "the state was not written") {
		t.Errorf("notes %q", v.Notes())
	}
	r.ok(os.WriteFile(dir, nil, 0o600))
	if _, err := OpenState(dir); err == nil {
		t.Error("a file was opened as a state folder")
	}
}

func TestTheStateReplacesWhatAnAttackerPutThere(t *testing.T) {
	r := newRepo(t)
	root, err := ParseRoot(r.root)
	r.ok(err)
	for name, plant := range map[string]func(path string) error{
		"a file":    func(p string) error { return os.WriteFile(p, nil, 0o600) },
		"a symlink": func(p string) error { return os.Symlink(t.TempDir(), p) },
		"a half-written folder next to it": func(p string) error {
			return errors.Join(os.Mkdir(p+".next", 0o700), os.WriteFile(filepath.Join(p+".next", "1.root.json"), r.root, 0o600))
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			r.ok(plant(filepath.Join(dir, root.stateID())))
			r.boot(r.files, r.policy(dir))
			if v := r.boot(r.files, r.policy(dir)); len(v.Notes()) != 0 {
				t.Errorf("not repaired: %q", v.Notes())
			}
			if all, err := os.ReadDir(dir); err != nil || len(all) != 1 || !all[0].IsDir() {
				t.Errorf("%v, %v", all, err)
			}
		})
	}
}

func TestStateReadOnlyIsReadAndNeverWritten(t *testing.T) {
	r, dir := newRepo(t), t.TempDir()
	old := maps.Clone(r.files)
	p := r.policy("")
	p.State = OpenStateReadOnly(filepath.Join(dir, "none"))
	r.boot(r.files, p)
	if _, err := os.Stat(filepath.Join(dir, "none")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the folder was made: %v", err)
	}
	r.stamp(r.online)
	r.boot(r.files, r.policy(dir))
	before := tree(t, dir)
	p.State = OpenStateReadOnly(dir)
	_, err := Verify(context.Background(), old, p)
	refused(t, err, ErrRollback, "older than version 2")
	r.stamp(r.online)
	r.boot(r.files, p)
	if !maps.Equal(before, tree(t, dir)) {
		t.Error("a read-only state was written")
	}
}

func TestLastGoodIsWhatWasVerifiedBefore(t *testing.T) {
	r, dir := newRepo(t), t.TempDir()
	p := r.policy(dir)
	_, err := LastGood(context.Background(), p)
	refused(t, err, fs.ErrNotExist, `no release of channel "stable" for "x86_64" is remembered`)
	r.newRoot(r.roots...)
	r.publish()
	r.boot(r.files, p)
	p.Now = today.Add(1000 * day)
	_, err = Verify(context.Background(), r.files, p)
	refused(t, err, ErrExpired, "expired on")
	v, err := LastGood(context.Background(), p)
	r.ok(err)
	if !v.LastGood() || v.Release().Version != "2026.10" || v.RootVersion() != 2 {
		t.Errorf("last good %t, release %s, root %d", v.LastGood(), v.Release().Version, v.RootVersion())
	}
	p.Channel = "edge"
	_, err = LastGood(context.Background(), p)
	refused(t, err, fs.ErrNotExist, "is remembered")
	p.Channel = "stable"
	for _, path := range stateFiles(t, dir) {
		if filepath.Base(path) == "stable-x86_64.json" {
			evil := r.signed("stable", "x86_64", r.manifest("stable", "x86_64", "evil"), "other-key")
			r.ok(os.WriteFile(path, evil.Data, 0o600))
		}
	}
	_, err = LastGood(context.Background(), p)
	refused(t, err, ErrMixAndMatch, "stable-x86_64.json: not the file of version 1")
}
