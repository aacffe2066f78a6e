package manifest

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// An attack changes the files of a source, or the machine's clock, after the machine has booted once
// from the valid repository.
type attack struct {
	name   string
	do     func(r *repo, p *Policy) Fetcher
	reason error
	says   string
}

// run runs each attack: a valid boot before it works, the attack is refused with its reason, the
// state is unchanged, and a valid boot afterwards works.
func run(t *testing.T, attacks []attack) {
	for _, a := range attacks {
		t.Run(a.name, func(t *testing.T) {
			r, dir := newRepo(t), t.TempDir()
			p := r.policy(dir)
			r.part(t, "valid case before", func(*testing.T) { r.boot(r.files, p) })
			valid, p2 := maps.Clone(r.files), p
			f := a.do(r, &p2)
			if mem, ok := f.(*served); ok {
				f, valid = mem.attack, mem.valid
			}
			r.part(t, "refused", func(t *testing.T) {
				before := tree(t, dir)
				_, err := Verify(context.Background(), f, p2)
				refused(t, err, a.reason, a.says)
				if diff := cmp.Diff(before, tree(t, dir)); diff != "" {
					t.Errorf("the state changed: %s", diff)
				}
			})
			r.part(t, "valid case after", func(*testing.T) { r.boot(valid, p) })
		})
	}
}

// part runs a subtest, which fails when r fails.
func (r *repo) part(t *testing.T, name string, do func(*testing.T)) {
	t.Run(name, func(t *testing.T) {
		was := r.t
		r.t = t
		defer func() { r.t = was }()
		do(t)
	})
}

// served has the files of an attack and the valid files of the same time.
type served struct{ attack, valid files }

func (s *served) Metadata(ctx context.Context, name string, max int64) ([]byte, error) {
	return s.attack.Metadata(ctx, name, max)
}

func tree(t *testing.T, dir string) map[string]string {
	t.Helper()
	all := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			data, err := os.ReadFile(path)
			all[path] = string(data)
			return err
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func TestAttackSignature(t *testing.T) {
	resign := func(signers ...string) func(*repo, *Policy) Fetcher {
		return func(r *repo, _ *Policy) Fetcher {
			r.publish(r.signed("stable", "x86_64", r.manifest("stable", "x86_64", "evil"), signers...))
			return r.files
		}
	}
	const again = "is this the right root.json?"
	run(t, []attack{
		{"a repository with other keys", func(r *repo, _ *Policy) Fetcher {
			s := newRepo(t)
			s.files, s.roots, s.online, s.rootNo, s.targets = files{}, []string{"other-key"}, "other-key", 0, 0
			s.snap, s.time = nil, nil
			s.newRoot("other-key")
			s.newTargets()
			s.publish(s.release("stable", "x86_64", "evil"))
			return s.files
		}, ErrSignature, "timestamp.json version 1: signed by 0 of 1 required keys"},
		{"a release signed by an unlisted key", resign("other-key"), ErrSignature, "stable-x86_64.json version 2: signed by 0 of 2 required keys"},
		{"a release signed by one of two", resign("release-b"), ErrSignature, "signed by 1 of 2 required keys"},
		{"a release without a signature", resign(), ErrSignature, "signed by 0 of 2 required keys: needs"},
		{"a release by the online key", resign("online"), ErrSignature, again},
		{"a release by the key of another channel", resign("edge", "release-a"), ErrSignature, again},
		{"a timestamp by a release key", func(r *repo, _ *Policy) Fetcher {
			r.stamp("release-a")
			return r.files
		}, ErrSignature, "timestamp.json version 2: signed by 0 of 1"},
		{"a snapshot signed by an unlisted key", func(r *repo, _ *Policy) Fetcher {
			online := r.online
			r.online = "other-key"
			r.publish()
			r.online = online
			r.stamp(online)
			return r.files
		}, ErrSignature, "2.snapshot.json: signed by 0 of 1"},
		{"targets by one of two root keys", func(r *repo, _ *Policy) Fetcher {
			roots := r.roots
			r.roots = roots[:1]
			r.publish(r.newTargets())
			r.roots = roots
			return r.files
		}, ErrSignature, "targets.json version 2: signed by 1 of 2"},
		{"a root by one of two root keys", func(r *repo, _ *Policy) Fetcher {
			r.newRoot("root-a")
			return r.files
		}, ErrSignature, "2.root.json: signed by 1 of 2 required keys"},
		{"a root by its new keys only", func(r *repo, _ *Policy) Fetcher {
			r.roots = []string{"attacker"}
			r.newRoot("attacker")
			return r.files
		}, ErrSignature, "is this the right repository for your root.json?"},
		{"a root by the old keys only", func(r *repo, _ *Policy) Fetcher {
			old := r.roots
			r.roots = []string{"root-c"}
			r.newRoot(old...)
			return r.files
		}, ErrSignature, "it must also be signed by its own root keys"},
		{"a signature over other bytes", func(r *repo, _ *Policy) Fetcher {
			good := r.manifest("stable", "x86_64", "2026.11")
			sign(r.t, KindRole, good, r.owners...)
			evil := r.manifest("stable", "x86_64", "evil")
			evil.Signatures = good.Signatures
			data, err := Bytes(KindRole, evil)
			r.ok(err)
			r.publish(File{"stable-x86_64", evil.Signed.Version, data})
			return r.files
		}, ErrSignature, "signed by 0 of 2"},
	})
}

func TestAttackExpired(t *testing.T) {
	later := func(by time.Duration) func(*repo, *Policy) Fetcher {
		return func(r *repo, p *Policy) Fetcher {
			p.Now = today.Add(by)
			return r.files
		}
	}
	fresh := func(by time.Duration, then func(*repo)) func(*repo, *Policy) Fetcher {
		return func(r *repo, p *Policy) Fetcher {
			p.Now = today.Add(by)
			for _, role := range []string{roleSnapshot, roleTimestamp} {
				r.expires[role] = p.Now.Add(day)
			}
			then(r)
			return r.files
		}
	}
	run(t, []attack{
		{"a timestamp at the very second of its end", later(day), ErrExpired, "timestamp.json version 1: expired on 2026-10-02 12:00:00 UTC, and it is 2026-10-02 12:00:00"},
		{"a frozen timestamp", later(2 * day), ErrExpired, "timestamp.json version 1: expired on 2026-10-02 12:00:00 UTC, and it is 2026-10-03"},
		{"a frozen snapshot", fresh(8*day, func(r *repo) { r.stamp(r.online) }), ErrExpired, "snapshot.json version 1: expired on 2026-10-08"},
		{"an old release", fresh(31*day, func(r *repo) { r.publish() }), ErrExpired, "stable-x86_64.json version 1: expired on"},
		{"old targets", fresh(200*day, func(r *repo) { r.publish() }), ErrExpired, "targets.json version 1: expired on"},
		{"an old root", fresh(366*day, func(r *repo) { r.publish() }), ErrExpired, "root.json version 1: expired on"},
		{"a clock set back below the image's build", func(r *repo, p *Policy) Fetcher {
			p.Now, p.Floor = time.Time{}, today.Add(2*day)
			return r.files
		}, ErrExpired, "and it is 2026-10-03"},
	})
}

func TestAttackRollback(t *testing.T) {
	// older boots a machine with what do publishes, and then serves the set before it.
	older := func(pick func(old, now files) files, do func(*repo)) func(*repo, *Policy) Fetcher {
		return func(r *repo, p *Policy) Fetcher {
			old := maps.Clone(r.files)
			do(r)
			r.boot(r.files, *p)
			f := pick(old, r.files)
			none := *p
			none.State = nil
			r.boot(f, none) // accepted without a state
			return &served{f, maps.Clone(r.files)}
		}
	}
	whole := func(old, _ files) files { return old }
	run(t, []attack{
		{
			"an older timestamp", older(whole, func(r *repo) { r.stamp(r.online) }),
			ErrRollback, "timestamp.json version 1: older than version 2, which was seen before; ask another source",
		},
		{
			"an older release", older(whole, func(r *repo) { r.publish(r.release("stable", "x86_64", "2026.11")) }),
			ErrRollback, "timestamp.json version 1: older than version 2",
		},
		{"an older snapshot under a new timestamp", func(r *repo, p *Policy) Fetcher {
			first := r.snap
			r.publish(r.release("stable", "x86_64", "2026.11"))
			r.boot(r.files, *p)
			valid := maps.Clone(r.files)
			r.snap = first
			r.stamp(r.online)
			return &served{r.files, valid}
		}, ErrRollback, "timestamp.json version 3: names snapshot version 1, older than 2"},
		{"an older release under a new snapshot", func(r *repo, p *Policy) Fetcher {
			first := File{"stable-x86_64", 1, r.files["1.stable-x86_64.json"]}
			r.publish(r.release("stable", "x86_64", "2026.11"))
			r.boot(r.files, *p)
			valid := maps.Clone(r.files)
			r.publish(first)
			return &served{r.files, valid}
		}, ErrRollback, `3.snapshot.json: names "stable-x86_64.json" version 1, older than 2`},
		{"a release taken out of the snapshot", func(r *repo, p *Policy) Fetcher {
			valid := maps.Clone(r.files)
			delete(r.snap.Signed.Meta, "stable-x86_64.json")
			r.publish()
			return &served{r.files, valid}
		}, ErrRollback, `"stable-x86_64.json" is gone`},
		{"a root that skips a version", func(r *repo, _ *Policy) Fetcher {
			valid := maps.Clone(r.files)
			r.rootNo++
			r.newRoot(r.roots...)
			return &served{with(valid, "2.root.json", r.files["3.root.json"]), valid}
		}, ErrRollback, "2.root.json: says version 3 where 2 must follow"},
	})
}

// The state has lost its snapshot and still has the release.
func TestAttackRollbackWithoutTheSnapshot(t *testing.T) {
	r, dir := newRepo(t), t.TempDir()
	first := File{"stable-x86_64", 1, r.files["1.stable-x86_64.json"]}
	r.publish(r.release("stable", "x86_64", "2026.11"))
	p := r.policy(dir)
	r.boot(r.files, p)
	for _, n := range []string{"snapshot.json", "timestamp.json"} {
		found, err := filepath.Glob(filepath.Join(dir, "*", n))
		r.ok(err)
		r.ok(os.Remove(found[0]))
	}
	valid := maps.Clone(r.files)
	r.publish(first)
	r.part(t, "refused", func(t *testing.T) {
		_, err := Verify(context.Background(), r.files, p)
		refused(t, err, ErrRollback, "stable-x86_64.json version 1: older than version 2, which was seen before")
	})
	r.part(t, "valid case", func(*testing.T) { r.boot(valid, p) })
}

// The state has lost all files but one.
func TestAttackRollbackWithAPartOfTheState(t *testing.T) {
	for _, row := range []struct{ name, lost, says string }{
		{"only targets are remembered", "{timestamp,snapshot,stable-x86_64}.json", "targets.json version 1: older than version 2, which was seen before"},
		{"only the snapshot is remembered", "{timestamp,targets,stable-x86_64}.json", "names snapshot version 1, older than 3, which was seen before"},
	} {
		t.Run(row.name, func(t *testing.T) {
			r, dir := newRepo(t), t.TempDir()
			old := maps.Clone(r.files)
			r.publish(r.newTargets())
			r.publish()
			p := r.policy(dir)
			r.part(t, "valid case before", func(*testing.T) { r.boot(r.files, p) })
			for _, path := range stateFiles(t, dir) {
				if strings.Contains(row.lost, strings.TrimSuffix(filepath.Base(path), ".json")) {
					r.ok(os.Remove(path))
				}
			}
			r.part(t, "refused", func(t *testing.T) {
				_, err := Verify(context.Background(), old, p)
				refused(t, err, ErrRollback, row.says)
			})
			r.part(t, "valid case after", func(*testing.T) { r.boot(r.files, p) })
		})
	}
}

func TestAttackWithheldRoot(t *testing.T) {
	r, dir := newRepo(t), t.TempDir()
	p := r.policy(dir)
	old, snap, last := maps.Clone(r.files), r.snap, r.time
	r.boot(old, p)
	r.online = "online-2" // the online key was stolen, and is revoked by root 2
	r.newRoot(r.roots...)
	r.publish(r.release("stable", "x86_64", "2026.11"))
	r.boot(r.files, p)

	attacker := newRepo(t)
	attacker.files, attacker.snap, attacker.time = old, snap, last
	attacker.publish()
	if _, ok := attacker.files["2.root.json"]; ok {
		t.Fatal("the attacker serves root 2")
	}
	r.part(t, "refused", func(t *testing.T) {
		_, err := Verify(context.Background(), attacker.files, p)
		refused(t, err, ErrSignature, "timestamp.json version 2: signed by 0 of 1")
	})
	attacker.part(t, "a machine that has only root 1 accepts it", func(*testing.T) { attacker.boot(attacker.files, attacker.policy("")) })
	r.part(t, "valid case", func(t *testing.T) {
		v := r.boot(r.files, p)
		if v.RootVersion() != 2 || v.Release().Version != "2026.11" {
			t.Errorf("root %d, release %s", v.RootVersion(), v.Release().Version)
		}
	})
	r.part(t, "valid case with root 2 withheld", func(t *testing.T) {
		if v := r.boot(without(r.files, "2.root.json"), p); v.RootVersion() != 2 {
			t.Errorf("root %d with 2.root.json withheld", v.RootVersion())
		}
	})
}

func TestAttackFastForwardIsRepairedByNewKeys(t *testing.T) {
	r, dir := newRepo(t), t.TempDir()
	p := r.policy(dir)
	r.part(t, "valid case before", func(*testing.T) { r.boot(r.files, p) })
	before, snap, last := maps.Clone(r.files), r.snap, r.time
	r.part(t, "version 2^63-1 is refused", func(t *testing.T) {
		far := bytes.Replace(r.files["timestamp.json"], []byte(`"version": 1`), []byte(`"version": 9223372036854775807`), -1)
		_, err := Verify(context.Background(), with(r.files, "timestamp.json", far), p)
		refused(t, err, ErrMalformed, "not a plain integer of at most 2^53")
	})
	r.snap.Signed.Version, r.time.Signed.Version = 1<<53-1, 1<<53-1
	r.publish()
	r.part(t, "version 2^53 is followed", func(*testing.T) { r.boot(r.files, p) })

	r.files, r.snap, r.time = before, snap, last
	r.snap.Signed.Version, r.time.Signed.Version = 1, 1
	r.publish(r.release("stable", "x86_64", "2026.11"))
	r.part(t, "then the valid release looks old", func(t *testing.T) {
		_, err := Verify(context.Background(), r.files, p)
		refused(t, err, ErrRollback, "older than version 9007199254740992")
	})
	r.online = "online-2"
	r.newRoot(r.roots...)
	r.publish()
	r.part(t, "valid case after a new online key", func(t *testing.T) {
		v := r.boot(r.files, p)
		if v.Release().Version != "2026.11" || len(v.Notes()) != 2 {
			t.Errorf("release %s, notes %q", v.Release().Version, v.Notes())
		}
	})
}

// An attacker withholds newer metadata until the old ones expire. One policy refuses then; the other
// boots the release that was verified before, and no other one.
func TestAttackFreeze(t *testing.T) {
	r, dir := newRepo(t), t.TempDir()
	p := r.policy(dir)
	r.part(t, "valid case before", func(*testing.T) { r.boot(r.files, p) })
	frozen := maps.Clone(r.files)
	r.publish(r.release("stable", "x86_64", "2026.11")) // withheld by the attacker
	late := p
	late.Now = today.Add(2 * day)
	r.part(t, "policy refuse", func(t *testing.T) {
		for _, f := range []files{frozen, r.files} {
			_, err := Verify(context.Background(), f, late)
			refused(t, err, ErrExpired, "expired on 2026-10-02 12:00:00 UTC, and it is 2026-10-03 12:00:00 UTC")
		}
	})
	r.part(t, "policy last-good", func(t *testing.T) {
		v, err := LastGood(context.Background(), late)
		r.ok(err)
		if v.Release().Version != "2026.10" || !v.LastGood() {
			t.Errorf("release %s", v.Release().Version)
		}
	})
	r.part(t, "valid case after", func(t *testing.T) {
		for _, role := range []string{roleSnapshot, roleTimestamp} {
			r.expires[role] = late.Now.Add(day)
		}
		r.publish()
		if v := r.boot(r.files, late); v.Release().Version != "2026.11" {
			t.Errorf("release %s", v.Release().Version)
		}
	})
}

// With a clock that is far ahead everything is expired. The state does not keep that time.
func TestAttackClockAhead(t *testing.T) {
	r, dir := newRepo(t), t.TempDir()
	p := r.policy(dir)
	r.part(t, "valid case before", func(*testing.T) { r.boot(r.files, p) })
	r.part(t, "refused", func(t *testing.T) {
		ahead := p
		ahead.Now = today.Add(40000 * day)
		_, err := Verify(context.Background(), r.files, ahead)
		refused(t, err, ErrExpired, "or set the clock right")
	})
	r.part(t, "valid case after", func(*testing.T) { r.boot(r.files, p) })
}

func TestAttackMixAndMatch(t *testing.T) {
	run(t, []attack{
		{"a snapshot of another time under its name", func(r *repo, _ *Policy) Fetcher {
			first := r.files["1.snapshot.json"]
			r.publish(r.release("stable", "x86_64", "2026.11"))
			return &served{with(r.files, "2.snapshot.json", first), maps.Clone(r.files)}
		}, ErrMixAndMatch, "2.snapshot.json: not the file of version 2 that timestamp.json names"},
		{"a release of another time under its name", func(r *repo, _ *Policy) Fetcher {
			first := r.files["1.stable-x86_64.json"]
			r.publish(r.release("stable", "x86_64", "2026.11"))
			return &served{with(r.files, "2.stable-x86_64.json", first), maps.Clone(r.files)}
		}, ErrMixAndMatch, "2.stable-x86_64.json: not the file of version 2 that the snapshot names"},
		{"another release with the same version", func(r *repo, _ *Policy) Fetcher {
			f := r.release("stable", "x86_64", "2026.11")
			r.publish(f)
			r.numbers["stable-x86_64"]--
			twin := r.release("stable", "x86_64", "2026.11b")
			return &served{with(r.files, "2.stable-x86_64.json", twin.Data), maps.Clone(r.files)}
		}, ErrMixAndMatch, "hash verification failed"},
		{"targets of another time under their name", func(r *repo, _ *Policy) Fetcher {
			first := r.files["1.targets.json"]
			r.publish(r.newTargets())
			return &served{with(r.files, "2.targets.json", first), maps.Clone(r.files)}
		}, ErrMixAndMatch, "2.targets.json: not the file of version 2"},
		{"a release whose version is not the snapshot's", func(r *repo, _ *Policy) Fetcher {
			valid := maps.Clone(r.files)
			f := r.release("stable", "x86_64", "2026.11")
			f.Version = 3
			r.publish(f)
			return &served{r.files, valid}
		}, ErrMixAndMatch, "stable-x86_64.json version 2: the snapshot names version 3"},
		{"a release cut short", func(r *repo, _ *Policy) Fetcher {
			f := r.release("stable", "x86_64", "2026.11")
			r.publish(f)
			return &served{with(r.files, "2.stable-x86_64.json", f.Data[:len(f.Data)/2]), maps.Clone(r.files)}
		}, ErrMixAndMatch, "2.stable-x86_64.json: not the file"},
	})
}

func TestAttackPath(t *testing.T) {
	// moved signs a release of stable with one file under another path.
	moved := func(path string) func(*repo, *Policy) Fetcher {
		return func(r *repo, _ *Policy) Fetcher {
			valid := maps.Clone(r.files)
			role := r.manifest("stable", "x86_64", "2026.11")
			role.Signed.Targets[path] = role.Signed.Targets["stable/x86_64/rootfs"]
			delete(role.Signed.Targets, "stable/x86_64/rootfs")
			r.publish(r.signed("stable", "x86_64", role, r.owners...))
			return &served{r.files, valid}
		}
	}
	// posing signs a whole release of another channel with the keys of stable.
	posing := func(channel, arch string) func(*repo, *Policy) Fetcher {
		return func(r *repo, _ *Policy) Fetcher {
			valid := maps.Clone(r.files)
			release := sample(channel, arch, "evil", 2, r.signedAt, r.expires["release"])
			release.Repository = r.id
			role, err := Encode(release)
			r.ok(err)
			r.publish(r.signed("stable", "x86_64", role, r.owners...))
			return &served{r.files, valid}
		}
	}
	run(t, []attack{
		{"a file of another channel", moved("edge/x86_64/rootfs"), ErrPath, `"edge/x86_64/rootfs" is outside stable/x86_64/* stable/x86_64/dtb/* stable/x86_64/job/* stable/x86_64/boot/*`},
		{"a file of another architecture", moved("stable/arm64/rootfs"), ErrPath, "is outside"},
		{"a path that climbs", moved("stable/x86_64/../rootfs"), ErrPath, "is outside"},
		{"an absolute path", moved("/stable/x86_64/rootfs"), ErrPath, "is outside"},
		{"a path too deep", moved("stable/x86_64/dtb/a/b"), ErrPath, "is outside"},
		{"a folder outside the delegation", moved("stable/x86_64/etc/rootfs"), ErrPath, "is outside"},
		{"a release of another channel", posing("edge", "x86_64"), ErrPath, "is outside"},
		{"a release of another architecture", posing("stable", "arm64"), ErrPath, "is outside"},
	})
	t.Run("a channel without a delegation", func(t *testing.T) {
		r := newRepo(t)
		release := sample("night", "x86_64", "evil", 1, r.signedAt, r.expires["release"])
		release.Repository = r.id
		role, err := Encode(release)
		r.ok(err)
		check := func(f File) error {
			_, err := CheckRole(r.root, r.files["1.targets.json"], f.Data, today)
			return err
		}
		r.part(t, "valid case", func(*testing.T) { r.ok(check(r.release("stable", "x86_64", "2026.11"))) })
		r.part(t, "refused", func(t *testing.T) {
			refused(t, check(r.signed("night", "x86_64", role, r.owners...)), ErrPath, `delegates no channel "night" for "x86_64"`)
		})
	})
}

func TestAttackStolenOnlineKeyBringsNothingNew(t *testing.T) {
	run(t, []attack{{"targets that delegate to the attacker", func(r *repo, _ *Policy) Fetcher {
		valid := maps.Clone(r.files)
		r.owners, r.roots = []string{"online"}, []string{"online"}
		r.publish(r.newTargets(), r.release("stable", "x86_64", "evil"))
		return &served{r.files, valid}
	}, ErrSignature, "targets.json version 2: signed by 0 of 2"}})
}

func TestAttackRevokedReleaseKey(t *testing.T) {
	run(t, []attack{{"a release by keys that targets.json no longer names", func(r *repo, p *Policy) Fetcher {
		old := r.owners
		r.owners = []string{"release-c"}
		r.publish(r.newTargets(), r.release("stable", "x86_64", "2026.11"))
		r.boot(r.files, *p)
		valid := maps.Clone(r.files)
		r.publish(r.signed("stable", "x86_64", r.manifest("stable", "x86_64", "evil"), old...))
		return &served{r.files, valid}
	}, ErrSignature, "stable-x86_64.json version 3: signed by 0 of 1"}})
}

func TestAttackEndlessFile(t *testing.T) {
	r := newRepo(t)
	r.part(t, "valid case", func(*testing.T) { r.boot(r.files, r.policy("")) })
	for _, n := range []string{"2.root.json", "timestamp.json", "1.snapshot.json", "1.targets.json", "1.stable-x86_64.json"} {
		r.part(t, n, func(t *testing.T) {
			_, err := Verify(context.Background(), endless{r.files, n}, r.policy(""))
			refused(t, err, ErrMalformed, n+": more than")
		})
	}
}

// endless returns more bytes than the Fetcher contract allows.
type endless struct {
	files
	name string
}

func (f endless) Metadata(ctx context.Context, name string, max int64) ([]byte, error) {
	if name == f.name {
		return make([]byte, max+1), nil
	}
	return f.files.Metadata(ctx, name, max)
}

func TestARootSignedByOneOfTwoKeysIsRefused(t *testing.T) {
	r := newRepo(t)
	root, err := ParseRoot(r.root)
	r.ok(err)
	if keys, m := root.Keys(roleRoot); len(keys) != 2 || m != 2 || !keys[0].Equal(key("root-a").Public()) && !keys[0].Equal(key("root-b").Public()) {
		t.Errorf("root keys %v, threshold %d", keys, m)
	}
	r.rootNo = 0
	r.newRoot("root-a")
	_, err = ParseRoot(r.files["1.root.json"])
	refused(t, err, ErrSignature, "1.root.json: signed by 1 of 2 required keys")
	_, err = Verify(context.Background(), r.files, Policy{Root: r.files["1.root.json"], Channel: "stable", Arch: "x86_64", Now: today})
	refused(t, err, ErrSignature, "1.root.json")
	_, err = NewRoot(RootSpec{Root: []ed25519.PublicKey{{1, 2}}, Threshold: 1})
	refused(t, err, ErrMalformed, "2 bytes, an Ed25519 key has 32")
	_, err = NewRoot(RootSpec{Root: public("a"), Threshold: 2, Online: public("b"), Expires: today})
	refused(t, err, ErrMalformed, "threshold: 2 is not within 1 and 1")
}

// Too few release keys sign a release, and enough of them sign one of another channel.
func TestAttackStolenReleaseKey(t *testing.T) {
	run(t, []attack{
		{"one of two", func(r *repo, _ *Policy) Fetcher {
			r.publish(r.signed("stable", "x86_64", r.manifest("stable", "x86_64", "evil"), "release-a"))
			return r.files
		}, ErrSignature, "stable-x86_64.json version 2: signed by 1 of 2 required keys"},
		{"one, twice", func(r *repo, _ *Policy) Fetcher {
			r.publish(r.signed("stable", "x86_64", r.manifest("stable", "x86_64", "evil"), "release-a", "release-a"))
			return r.files
		}, ErrSignature, "stable-x86_64.json version 2: signed by 1 of 2 required keys"},
		{"both, for edge", func(r *repo, p *Policy) Fetcher {
			p.Channel = "edge"
			valid := maps.Clone(r.files)
			r.publish(r.signed("edge", "x86_64", r.manifest("edge", "x86_64", "evil"), r.owners...))
			return &served{r.files, valid}
		}, ErrSignature, "edge-x86_64.json version 1: signed by 0 of 1 required keys"},
	})
}

// Too few root keys sign a root, or targets, that list keys of the attacker.
func TestAttackStolenRootKey(t *testing.T) {
	run(t, []attack{
		{"a root by one of two", func(r *repo, _ *Policy) Fetcher {
			valid := maps.Clone(r.files)
			r.roots = []string{"root-a"}
			r.newRoot("root-a")
			return &served{r.files, valid}
		}, ErrSignature, "2.root.json: signed by 1 of 2 required keys"},
		{"targets by one of two", func(r *repo, _ *Policy) Fetcher {
			valid := maps.Clone(r.files)
			r.roots, r.owners = []string{"root-a"}, []string{"attacker"}
			r.publish(r.newTargets(), r.release("stable", "x86_64", "evil"))
			return &served{r.files, valid}
		}, ErrSignature, "targets.json version 2: signed by 1 of 2 required keys"},
	})
}
