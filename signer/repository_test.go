package signer

import (
	"crypto/ed25519"
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/phaseboot/phaseboot/manifest"
	"github.com/phaseboot/phaseboot/signer/key"
)

// Two repositories have the same keys: files of one are not signed and not accepted in the other.
func TestAttackTwoRepositoriesUnderTheSameKeys(t *testing.T) {
	p := newBench(t)
	p.mustRelease(t)
	s := p.another(t)
	s.mustRelease(t)
	if _, err := Rotate(t.Context(), RotateSpec{Repo: s.dir, Keys: []key.Key{s.root}, Now: noon, RootLifetime: time.Hour, TargetsLifetime: time.Hour}); err != nil {
		t.Fatal(err)
	}
	verify := func(file string) error {
		_, err := Verify(t.Context(), VerifySpec{Root: p.path(RootName), Files: []string{file}, Now: noon})
		return err
	}
	addChannel(t, p, "beta")
	for name, check := range map[string]func() error{
		"verify the release":  func() error { return verify(s.path("RELEASE.json")) },
		"verify the targets":  func() error { return verify(s.path("2.targets.json")) },
		"verify the root":     func() error { return verify(s.path("1.root.json")) },
		"verify its next one": func() error { return verify(s.path("2.root.json")) },
		"add to the release": func() error {
			_, err := Add(t.Context(), AddSpec{File: s.path("RELEASE.json"), Repo: p.dir, Keys: []key.Key{p.release}, Now: noon})
			return err
		},
		"promote the release": func() error {
			_, err := Promote(t.Context(), PromoteSpec{File: s.path("RELEASE.json"), From: "stable", ManifestSpec: ManifestSpec{
				Repo: p.dir, Channel: "beta", Arch: "x86_64",
				Keys: []key.Key{p.release}, Lifetime: time.Hour, Out: p.path("OUT.json"), Now: noon,
			}})
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			if err := check(); !errors.Is(err, manifest.ErrUntrusted) {
				t.Errorf("got %v", err)
			}
		})
	}
	for _, file := range []string{"RELEASE.json", "1.targets.json", "1.root.json"} {
		if err := verify(p.path(file)); err != nil {
			t.Errorf("the valid %s: %v", file, err)
		}
	}
	if _, err := os.Stat(p.path("OUT.json")); err == nil {
		t.Error("a refused release was written")
	}
}

// addChannel adds a channel with the same release key.
func addChannel(t *testing.T, b bench, name string) {
	t.Helper()
	if _, err := Rotate(t.Context(), RotateSpec{
		Repo: b.dir, Keys: []key.Key{b.root}, Channels: []string{name}, Archs: []string{"x86_64"},
		AddRelease: []ed25519.PublicKey{b.release.Public()}, Now: noon, RootLifetime: time.Hour, TargetsLifetime: time.Hour,
	}); err != nil {
		t.Fatal(err)
	}
}

func TestARotationKeepsTheRepositoryID(t *testing.T) {
	b := newBench(t)
	first, err := openDocument(b.path("1.root.json"))
	if err != nil {
		t.Fatal(err)
	}
	r, err := Rotate(t.Context(), RotateSpec{Repo: b.dir, Keys: []key.Key{b.root}, Now: noon, RootLifetime: time.Hour, TargetsLifetime: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range r.Files {
		if f.Repository != first.Repository() || len(f.Repository) != 32 {
			t.Errorf("%s: repository %q, and before it was %q", f.File, f.Repository, first.Repository())
		}
	}
}

func TestShowSaysWhatASnapshotAndATimestampName(t *testing.T) {
	b := newBench(t)
	first, err := openDocument(b.path("1.root.json"))
	if err != nil {
		t.Fatal(err)
	}
	targets, err := os.ReadFile(b.path("1.targets.json"))
	if err != nil {
		t.Fatal(err)
	}
	snapshot, err := manifest.NewSnapshot(nil, noon.Add(time.Hour), manifest.File{Role: "targets", Version: 1, Data: targets})
	if err != nil {
		t.Fatal(err)
	}
	data := signedBytes(t, b, manifest.KindSnapshot, snapshot, first.Repository())
	b.write(t, "1.snapshot.json", data)
	timestamp, err := manifest.NewTimestamp(nil, manifest.File{Role: "snapshot", Version: 1, Data: data}, noon, noon.Add(time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	b.write(t, "timestamp.json", signedBytes(t, b, manifest.KindTimestamp, timestamp, first.Repository()))
	for file, says := range map[string][]string{
		"1.snapshot.json": {"names     targets.json version 1, ", " bytes, sha256 "},
		"timestamp.json":  {"names     snapshot.json version 1, ", "signed    2026-11-01 12:00 UTC", "repository " + first.Repository()},
	} {
		sum, err := Show(ShowSpec{File: b.path(file)})
		if err != nil || len(sum.Names) != 1 || len(sum.Unknown) != 0 {
			t.Errorf("%s: %+v, %v", file, sum, err)
		}
		for _, want := range append(says, "1 of 1 needed") {
			if words := sum.Words(noon); !strings.Contains(words, want) {
				t.Errorf("%s: no %q in:\n%s", file, want, words)
			}
		}
	}
}

func signedBytes[T metadata.Roles](t *testing.T, b bench, kind manifest.Kind, m *metadata.Metadata[T], id string) []byte {
	t.Helper()
	manifest.SetRepository(m, id)
	if _, err := manifest.Sign(m, b.online.Signer()); err != nil {
		t.Fatal(err)
	}
	data, err := manifest.Bytes(kind, m)
	if err != nil {
		t.Fatal(err)
	}
	return data
}
