package signer

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/phaseboot/phaseboot/manifest"
	"github.com/phaseboot/phaseboot/signer/key"
)

// The manifest is altered between review and signature, with and without the noted digest.
func TestAttackAlteredAfterReview(t *testing.T) {
	b := newBench(t)
	b.mustRelease(t)
	file := b.path("RELEASE.json")
	seen, err := Show(ShowSpec{File: file, Repo: b.dir})
	if err != nil {
		t.Fatal(err)
	}
	good, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	evil := bytes.Replace(good, []byte(`"release": "1"`), []byte(`"release": "6"`), 1)
	add := func(data []byte) error {
		if err := os.WriteFile(file, data, 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := Add(t.Context(), AddSpec{File: file, Repo: b.dir, Keys: []key.Key{b.release}, Digest: seen.Digest, Now: noon})
		return err
	}
	t.Run("refused", func(t *testing.T) {
		if err := add(evil); !errors.Is(err, manifest.ErrSignature) {
			t.Errorf("altered: %v", err)
		}
		if after, err := os.ReadFile(file); err != nil || !bytes.Equal(after, evil) {
			t.Errorf("a refused file was written: %v", err)
		}
	})
	t.Run("valid case", func(t *testing.T) {
		if err := add(good); err != nil {
			t.Error(err)
		}
	})
}

// One of two root keys is stolen. A root that only it signed is refused by the repository and by a
// machine; a root that both keys signed is accepted.
func TestAttackStolenRootKey(t *testing.T) {
	b := newBench(t)
	second := newKey(t, b.path("second.key"))
	rotate := func(s RotateSpec) (RotateResult, error) {
		s.Repo, s.Now, s.RootLifetime, s.TargetsLifetime = b.dir, noon, time.Hour, time.Hour
		return Rotate(t.Context(), s)
	}
	if _, err := rotate(RotateSpec{Keys: []key.Key{b.root}, AddRoot: []key.Key{second}, RootThreshold: 2}); err != nil {
		t.Fatal(err)
	}
	attacker := newKey(t, b.path("attacker.key"))
	s := RotateSpec{Keys: []key.Key{b.root}, AddRoot: []key.Key{attacker}, RemoveRoot: []string{second.ID()}}
	t.Run("refused by the repository", func(t *testing.T) {
		if _, err := rotate(s); !errors.Is(err, manifest.ErrSignature) {
			t.Error(err)
		}
	})
	s.Out = b.path("evil")
	r, err := rotate(s)
	if err != nil || r.Complete {
		t.Fatalf("complete %t, %v", r.Complete, err)
	}
	old, err := os.ReadFile(b.path("2.root.json"))
	if err != nil {
		t.Fatal(err)
	}
	trusted, err := manifest.ParseRoot(old)
	if err != nil {
		t.Fatal(err)
	}
	follows := func(path string) error {
		data, err := os.ReadFile(path)
		if err == nil {
			_, err = trusted.Next(data)
		}
		return err
	}
	t.Run("refused by a machine", func(t *testing.T) {
		if err := follows(filepath.Join(s.Out, "3.root.json")); !errors.Is(err, manifest.ErrSignature) {
			t.Error(err)
		}
	})
	t.Run("valid case", func(t *testing.T) {
		if _, err := rotate(RotateSpec{Keys: []key.Key{b.root, second}, RootThreshold: 1}); err != nil {
			t.Fatal(err)
		}
		if err := follows(b.path("3.root.json")); err != nil {
			t.Error(err)
		}
	})
}

func TestAnExpiredRepositoryIsRenewed(t *testing.T) {
	b := newBench(t)
	late := noon.Add(10000 * time.Hour)
	spec := b.spec()
	spec.Now = late
	if _, err := Release(t.Context(), spec); !errors.Is(err, manifest.ErrExpired) {
		t.Fatalf("before: %v", err)
	}
	r, err := Rotate(t.Context(), RotateSpec{Repo: b.dir, Keys: []key.Key{b.root}, Now: late, RootLifetime: 1000 * time.Hour, TargetsLifetime: 1000 * time.Hour})
	if err != nil || len(r.Files) != 2 || !r.Complete {
		t.Fatalf("%+v, %v", r, err)
	}
	if _, err := Release(t.Context(), spec); err != nil {
		t.Errorf("after: %v", err)
	}
}

func TestARotationIsRefusedBeforeItIsSigned(t *testing.T) {
	b := newBench(t)
	for name, s := range map[string]RotateSpec{
		"an online key that signs releases": {Keys: []key.Key{b.root}, Online: b.release.Public()},
		"a release key that is the root's online key": {
			Keys: []key.Key{b.root}, AddRelease: []ed25519.PublicKey{b.online.Public()},
		},
		"no root key left":          {Keys: []key.Key{b.root}, RemoveRoot: []string{b.root.ID()}},
		"a threshold beyond reason": {Keys: []key.Key{b.root}, RootThreshold: 2},
		"a mirror that is none":     {Keys: []key.Key{b.root}, HTTPS: []string{"ftp://mirror.example"}},
	} {
		t.Run(name, func(t *testing.T) {
			s.Repo, s.Now, s.RootLifetime, s.TargetsLifetime = b.dir, noon, time.Hour, time.Hour
			if _, err := Rotate(context.Background(), s); err == nil {
				t.Error("was made")
			}
			if _, err := os.Stat(b.path("2.root.json")); err == nil {
				t.Error("was written")
			}
		})
	}
}
