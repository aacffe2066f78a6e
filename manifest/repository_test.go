package manifest

import (
	"cmp"
	"context"
	"errors"
	"maps"
	"strings"
	"testing"
)

const staging = "5ca1ab1e5ca1ab1e5ca1ab1e5ca1ab1e" // another repository ID

// Two repositories have the same root, online and release keys: every signature of one is valid in
// the other. Only the ID distinguishes them.
func TestAnotherRepositoryUnderTheSameKeysIsRefused(t *testing.T) {
	for _, other := range []string{staging, ""} {
		t.Run("ID "+cmp.Or(other, "none"), func(t *testing.T) {
			for _, c := range []struct {
				name  string
				files func(p, s *repo) files
			}{
				{"all of it", func(_, s *repo) files { return s.files }},
				{"its next root", func(p, s *repo) files {
					s.newRoot(s.roots...)
					return with(p.files, "2.root.json", s.files["2.root.json"])
				}},
				{"its timestamp", func(p, s *repo) files { return with(p.files, "timestamp.json", s.files["timestamp.json"]) }},
				{"its snapshot, under our timestamp", func(p, s *repo) files {
					p.files["1.snapshot.json"] = s.files["1.snapshot.json"]
					p.stamp(p.online)
					return p.files
				}},
				{"its targets, under our snapshot", func(p, s *repo) files {
					p.files["1.targets.json"] = s.files["1.targets.json"]
					p.publish()
					return p.files
				}},
				{"its release, under our snapshot and targets", func(p, s *repo) files {
					p.publish(File{"stable-x86_64", 1, s.files["1.stable-x86_64.json"]})
					return p.files
				}},
			} {
				t.Run(c.name, func(t *testing.T) {
					p, s := newRepo(t), newRepoOf(t, other)
					if c.name == "all of it" {
						s.publish(s.release("stable", "x86_64", "2026.11"))
					}
					machine := p.policy(t.TempDir())
					p.boot(p.files, machine)
					valid := maps.Clone(p.files)
					_, err := Verify(context.Background(), c.files(p, s), machine)
					if !errors.Is(err, ErrRepository) || !errors.Is(err, ErrUntrusted) || !strings.Contains(err.Error(), cmp.Or(other, "none")) {
						t.Errorf("got %v; want a refusal that names repository %s", err, cmp.Or(other, "none"))
					}
					p.boot(valid, machine)
				})
			}
		})
	}
}

func TestARepositoryWithoutAnIDStaysWithoutOne(t *testing.T) {
	old := newRepoOf(t, "")
	old.boot(old.files, old.policy(t.TempDir()))
	before, err := ParseRoot(old.root)
	old.ok(err)
	if before.Repository() != "" {
		t.Errorf("ID %q", before.Repository())
	}
	old.id = staging
	old.newRoot(old.roots...)
	if _, err := before.Next(old.files["2.root.json"]); !errors.Is(err, ErrRepository) {
		t.Errorf("a root that brings an ID: %v", err)
	}
}

func TestUnpublishedFilesOfAnotherRepositoryAreRefused(t *testing.T) {
	p, s := newRepo(t), newRepoOf(t, staging)
	root, err := ParseRoot(p.root)
	p.ok(err)
	for kind, name := range map[Kind]string{KindTargets: "1.targets.json", KindSnapshot: "1.snapshot.json", KindTimestamp: "timestamp.json"} {
		p.ok(root.CheckSigned(kind, p.files[name]))
		if err := root.CheckSigned(kind, s.files[name]); !errors.Is(err, ErrRepository) {
			t.Errorf("%s: %v", name, err)
		}
	}
	const role = "1.stable-x86_64.json"
	r, err := CheckRole(p.root, p.files["1.targets.json"], p.files[role], today)
	p.ok(err)
	if r.Repository != production {
		t.Errorf("the release says repository %q", r.Repository)
	}
	if _, err := CheckRole(p.root, p.files["1.targets.json"], s.files[role], today); !errors.Is(err, ErrRepository) {
		t.Errorf("release: %v", err)
	}
	if _, err := CheckRole(p.root, s.files["1.targets.json"], p.files[role], today); !errors.Is(err, ErrRepository) {
		t.Errorf("targets: %v", err)
	}
}

func TestTwoRepositoriesUnderTheSameKeysHaveTwoStates(t *testing.T) {
	dir := t.TempDir()
	p, s := newRepo(t), newRepoOf(t, staging)
	for range 3 {
		s.publish(s.release("stable", "x86_64", "2026.11"))
	}
	s.boot(s.files, s.policy(dir))
	p.boot(p.files, p.policy(dir)) // older than the state of the other
	s.boot(s.files, s.policy(dir))
}

func TestRepositoryIDsAreRandom(t *testing.T) {
	a, b := NewRepositoryID(), NewRepositoryID()
	if a == b || !repositoryGrammar.MatchString(a) || !repositoryGrammar.MatchString(b) {
		t.Errorf("got %q and %q", a, b)
	}
}
