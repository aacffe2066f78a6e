package manifest

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/theupdateframework/go-tuf/v2/metadata"
	"github.com/theupdateframework/go-tuf/v2/metadata/trustedmetadata"
)

// goTUF runs go-tuf's client workflow over the same files at a given time.
func goTUF(ctx context.Context, f Fetcher, root []byte, roots []int64, role string, now time.Time) (*trustedmetadata.TrustedMetadata, error) {
	tm, err := trustedmetadata.New(root)
	if err != nil {
		return nil, err
	}
	tm.RefTime = now
	get := func(role string, version int64, load func([]byte) error) {
		if err == nil {
			var data []byte
			if data, err = f.Metadata(ctx, FileName(role, version), MaxMetadata); err == nil {
				err = load(data)
			}
		}
	}
	for _, version := range roots[1:] {
		get(roleRoot, version, func(data []byte) error { _, err := tm.UpdateRoot(data); return err })
	}
	get(roleTimestamp, 0, func(data []byte) error { _, err := tm.UpdateTimestamp(data); return err })
	if err != nil {
		return nil, err
	}
	get(roleSnapshot, tm.Timestamp.Signed.Meta["snapshot.json"].Version, func(data []byte) error { _, err := tm.UpdateSnapshot(data, false); return err })
	if err != nil {
		return nil, err
	}
	named := tm.Snapshot.Signed.Meta
	get(roleTargets, named["targets.json"].Version, func(data []byte) error { _, err := tm.UpdateTargets(data); return err })
	get(role, named[role+".json"].Version, func(data []byte) error {
		_, err := tm.UpdateDelegatedTargets(data, role, roleTargets)
		return err
	})
	return tm, err
}

// both reads from the state first, which has the verified files after a boot.
type both struct{ state, source Fetcher }

func (b both) Metadata(ctx context.Context, name string, max int64) ([]byte, error) {
	data, err := b.state.Metadata(ctx, name, max)
	if err != nil {
		return b.source.Metadata(ctx, name, max)
	}
	return data, nil
}

// agrees fails the test when go-tuf refuses files that Verify has accepted. Every valid boot in the
// tests of this package runs it.
func (r *repo) agrees(f Fetcher, p Policy, v *Verified) {
	r.t.Helper()
	root, err := ParseRoot(p.Root)
	r.ok(err)
	role, err := RoleName(p.Channel, p.Arch)
	r.ok(err)
	tm, err := goTUF(context.Background(), both{p.State.of(root), f}, p.Root, v.roots, role, v.now)
	if err != nil {
		r.t.Fatalf("go-tuf refuses what we accept: %v", err)
	}
	if n := tm.Targets[role].Signed.Version; n != v.Release().Number {
		r.t.Fatalf("go-tuf's release is number %d, ours %d", n, v.Release().Number)
	}
}

// For every subset of signatures, by keys of the role and by others, manifest and go-tuf agree.
func TestGoTUFAcceptsWhatWeAccept(t *testing.T) {
	r := newRepo(t)
	targets, err := open(KindTargets, r.files["1.targets.json"])
	r.ok(err)
	theirs, err := metadata.Targets().FromBytes(targets.data)
	r.ok(err)
	signers := []string{"release-a", "release-b", "edge", "other-key"}
	for set := range 1 << len(signers) {
		var names []string
		for i, name := range signers {
			if set>>i&1 == 1 {
				names = append(names, name)
			}
		}
		t.Run(fmt.Sprint(names), func(t *testing.T) {
			f := r.signed("stable", "x86_64", r.manifest("stable", "x86_64", "2026.11"), names...)
			doc, err := open(KindRole, f.Data)
			r.ok(err)
			m, err := metadata.Targets().FromBytes(f.Data)
			r.ok(err)
			for _, role := range []string{"stable-x86_64", "stable-arm64", "edge-x86_64"} {
				ours, cause := targets.delegation(role).accepts(doc), theirs.VerifyDelegate(role, m)
				if unsigned := new(metadata.ErrUnsignedMetadata); cause != nil && !errors.As(cause, &unsigned) {
					t.Fatal(cause)
				}
				if ours != (cause == nil) {
					t.Errorf("%s: ours says %t, go-tuf %v", role, ours, cause)
				}
			}
		})
	}
}

// The key ID that manifest computes is the one of go-tuf.
func TestKeyIDsEqualThoseOfGoTUF(t *testing.T) {
	for _, k := range public("a", "b", "c") {
		_, want, err := tufKey(k)
		if got := KeyID(k); err != nil || got != want {
			t.Errorf("%s, go-tuf says %s, %v", got, want, err)
		}
	}
}

// BenchmarkGoTUF is go-tuf's client workflow alone over the bytes of BenchmarkVerify, from
// memory: no lint, no paths, no meaning.
func BenchmarkGoTUF(b *testing.B) {
	r := largeRepo(b)
	p := r.policy("")
	v := r.boot(r.files, p)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := goTUF(context.Background(), r.files, p.Root, v.roots, "stable-x86_64", today); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkVerifyBesideGoTUF runs Verify and go-tuf in turns, under the same load, and prints the
// ratio of their times.
func BenchmarkVerifyBesideGoTUF(b *testing.B) {
	r := largeRepo(b)
	p := r.policy("")
	v := r.boot(r.files, p)
	var ours, theirs time.Duration
	for b.Loop() {
		start := time.Now()
		if _, err := Verify(context.Background(), r.files, p); err != nil {
			b.Fatal(err)
		}
		turn := time.Now()
		if _, err := goTUF(context.Background(), r.files, p.Root, v.roots, "stable-x86_64", today); err != nil {
			b.Fatal(err)
		}
		ours, theirs = ours+turn.Sub(start), theirs+time.Since(turn)
	}
	b.ReportMetric(ours.Seconds()/theirs.Seconds(), "×go-tuf")
	b.ReportMetric(ours.Seconds()*1e3/float64(b.N), "ours-ms")
	b.ReportMetric(theirs.Seconds()*1e3/float64(b.N), "go-tuf-ms")
}
