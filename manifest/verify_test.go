package manifest

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/ipfs/go-cid"
)

var compareCIDs = cmp.Comparer(func(a, b cid.Cid) bool { return a.Equals(b) })

func TestVerifyReturnsExactlyWhatWasSigned(t *testing.T) {
	r := newRepo(t)
	v := r.boot(r.files, r.policy(""))
	want := sample("stable", "x86_64", "2026.10", 1, r.signedAt, r.expires["release"])
	want.Repository = r.id
	if diff := cmp.Diff(want, v.Release(), compareCIDs); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(golden, v.Discovery()); diff != "" {
		t.Error(diff)
	}
	if v.TimestampVersion() != 1 || v.RootVersion() != 1 || len(v.Notes()) != 0 || v.LastGood() {
		t.Errorf("timestamp %d, root %d, notes %q", v.TimestampVersion(), v.RootVersion(), v.Notes())
	}
}

func TestVerifyReadsARepositoryInAFolder(t *testing.T) {
	r := newRepo(t)
	dir := t.TempDir()
	for n, data := range r.files {
		r.ok(os.WriteFile(filepath.Join(dir, n), data, 0o644))
	}
	r.boot(DirFetcher(dir), r.policy(""))
	if n, err := DirFetcher(dir).Newest("stable-x86_64"); n != 1 || err != nil {
		t.Errorf("Newest = %d, %v", n, err)
	}
	if n, err := DirFetcher(dir).Newest("edge-x86_64"); n != 0 || err != nil {
		t.Errorf("Newest of a channel with no release = %d, %v", n, err)
	}
	if _, err := DirFetcher(dir).Metadata(context.Background(), "../root.json", 10); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a path outside the folder: %v", err)
	}
	if _, err := DirFetcher(dir).Metadata(context.Background(), "timestamp.json", 10); !errors.Is(err, ErrMalformed) {
		t.Errorf("a file larger than asked for: %v", err)
	}
}

func TestVerifyFollowsTheChannelFromReleaseToRelease(t *testing.T) {
	r := newRepo(t)
	p := r.policy(t.TempDir())
	r.boot(r.files, p)
	r.publish(r.release("stable", "x86_64", "2026.11"))
	r.newRoot(r.roots...)
	r.publish(r.newTargets(), r.release("edge", "x86_64", "nightly"))
	v := r.boot(r.files, p)
	if got := v.Release(); got.Version != "2026.11" || got.Number != 2 || v.RootVersion() != 2 {
		t.Errorf("release %s number %d root %d", got.Version, got.Number, v.RootVersion())
	}
	v = r.boot(r.files, p)
	if len(v.Notes()) != 0 {
		t.Errorf("notes of a boot with a whole state: %q", v.Notes())
	}
	p.Channel = "edge"
	if got := r.boot(r.files, p).Release(); got.Version != "nightly" {
		t.Errorf("edge is %s", got.Version)
	}
}

func TestVerifyOfAnUnknownChannelListsTheKnownOnes(t *testing.T) {
	r := newRepo(t)
	for _, row := range []struct{ name, channel, arch, says string }{
		{"unknown channel", "nightly", "x86_64", `"nightly" for "x86_64": not in this repository; it has stable for x86_64`},
		{"unknown architecture", "stable", "riscv64", "it has stable for x86_64"},
		{"a channel with no release yet", "stable", "arm64", "no release yet; it has stable for x86_64"},
		{"a name that cannot be", "Stable!", "x86_64", `channel "Stable!": use a-z`},
	} {
		t.Run(row.name, func(t *testing.T) {
			p := r.policy("")
			p.Channel, p.Arch = row.channel, row.arch
			_, err := Verify(context.Background(), r.files, p)
			refused(t, err, fs.ErrNotExist, row.says)
		})
	}
	_, err := Verify(context.Background(), files{}, r.policy(""))
	refused(t, err, fs.ErrNotExist, "no release yet")
}

func TestVerifyNeedsATime(t *testing.T) {
	r := newRepo(t)
	p := r.policy("")
	p.Now = time.Time{}
	if _, err := Verify(context.Background(), r.files, p); err == nil || !strings.Contains(err.Error(), "nothing would ever expire") {
		t.Errorf("no clock and no floor: %v", err)
	}
	p.Floor = today
	r.boot(r.files, p)
}

func TestVerifyStopsWhenItsSourceFails(t *testing.T) {
	r := newRepo(t)
	broken := errors.New("connection refused")
	for n := range r.files {
		if n == "1.root.json" {
			continue
		}
		_, err := Verify(context.Background(), failing{r.files, n, broken}, r.policy(""))
		if !errors.Is(err, broken) || !strings.HasPrefix(err.Error(), n) {
			t.Errorf("%s: %v", n, err)
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := Verify(ctx, DirFetcher(t.TempDir()), r.policy("")); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

// failing is a source that returns an error for one file.
type failing struct {
	files
	name string
	err  error
}

func (f failing) Metadata(ctx context.Context, name string, max int64) ([]byte, error) {
	if name == f.name {
		return nil, f.err
	}
	return f.files.Metadata(ctx, name, max)
}

func TestChannelsListsEveryReleaseAndNamesTheBadOnes(t *testing.T) {
	r := newRepo(t)
	r.publish(r.release("edge", "x86_64", "nightly"))
	list, err := Channels(context.Background(), r.files, r.root, today)
	if err != nil || len(list) != 2 {
		t.Fatalf("%d releases, %v", len(list), err)
	}
	r.publish(r.signed("edge", "x86_64", r.manifest("edge", "x86_64", "nightly.2"), "other-key"))
	list, err = Channels(context.Background(), r.files, r.root, today)
	if len(list) != 1 || list[0].Channel != "stable" {
		t.Errorf("%d releases next to a refused one", len(list))
	}
	refused(t, err, ErrSignature, "edge-x86_64.json version 2: signed by 0 of 1")
}

func TestCheckRoleChecksOneManifest(t *testing.T) {
	r := newRepo(t)
	targets := r.files["1.targets.json"]
	good := r.release("stable", "x86_64", "2026.11")
	got, err := CheckRole(r.root, targets, good.Data, today)
	if err != nil || got.Version != "2026.11" {
		t.Fatalf("valid manifest: %v", err)
	}
	other := r.signed("stable", "x86_64", r.manifest("stable", "x86_64", "2026.12"), "release-a")
	_, err = CheckRole(r.root, targets, other.Data, today)
	refused(t, err, ErrSignature, "stable-x86_64.json version 3: signed by 1 of 2 required keys")
	_, err = CheckRole(r.root, targets, good.Data, today.Add(31*day))
	refused(t, err, ErrExpired, "stable-x86_64.json version 2: expired on")
	_, err = CheckRole(r.root, targets, good.Data, today.Add(181*day))
	refused(t, err, ErrExpired, "targets.json version 1: expired on")
	_, err = CheckRole(r.root, targets, good.Data, today.Add(366*day))
	refused(t, err, ErrExpired, "root.json version 1: expired on")
	_, err = CheckRole(r.root, targets, targets, today)
	refused(t, err, ErrMalformed, "release manifest: ")
	_, err = CheckRole(targets, targets, good.Data, today)
	refused(t, err, ErrMalformed, `"targets" where "root" is expected`)
	_, err = CheckRole(r.root, targets, nil, today)
	refused(t, err, ErrMalformed, "the file is empty")
	list, err := ReadDelegations(targets)
	if err != nil || len(list) != 3 || list[0].Channel != "stable" || list[0].Threshold != 2 || len(list[0].Keys) != 2 {
		t.Errorf("delegations %+v, %v", list, err)
	}
}

func TestSignReplacesAnOlderSignatureOfTheSameKey(t *testing.T) {
	r := newRepo(t)
	role := r.manifest("stable", "x86_64", "2026.11")
	data := sign(t, KindRole, role, "release-a", "release-b", "release-a")
	if len(role.Signatures) != 2 {
		t.Errorf("%d signatures", len(role.Signatures))
	}
	if _, err := CheckRole(r.root, r.files["1.targets.json"], data, today); err != nil {
		t.Error(err)
	}
}

// refused checks the reason of an error and a part of its text.
func refused(t *testing.T, err, reason error, says string) {
	t.Helper()
	if !errors.Is(err, reason) {
		t.Errorf("got %v\nwant a refusal of kind %q", err, reason)
		return
	}
	if !strings.Contains(err.Error(), says) {
		t.Errorf("got %v\nwant it to say %q", err, says)
	}
	if strings.Contains(err.Error(), "\n") {
		t.Errorf("more than one line: %q", err)
	}
}
