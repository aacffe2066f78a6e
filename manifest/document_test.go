package manifest

import (
	"bytes"
	"crypto"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sigstore/sigstore/pkg/signature"
	"github.com/theupdateframework/go-tuf/v2/metadata"
)

func mustOpen(t *testing.T, data []byte) *Document {
	t.Helper()
	d, err := Open(data)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func signerOf(t *testing.T, name string) signature.Signer {
	t.Helper()
	s, err := signature.LoadSigner(key(name), crypto.Hash(0))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func keyIDs(t *testing.T, names ...string) []string {
	t.Helper()
	list := []string{}
	for _, k := range public(names...) {
		list = append(list, KeyID(k))
	}
	return list
}

func TestADocumentSaysWhoSignedItAndHowManyAreMissing(t *testing.T) {
	r := newRepo(t)
	targets := mustOpen(t, r.files["1.targets.json"])
	role := r.manifest("stable", "x86_64", "2026.11")
	for _, c := range []struct {
		name           string
		signers        []string
		good, unlisted []string
		missing        int
	}{
		{"no signature", nil, nil, nil, 2},
		{"one of two", []string{"release-a"}, []string{"release-a"}, nil, 1},
		{"both", []string{"release-a", "release-b"}, []string{"release-a", "release-b"}, nil, 0},
		{"one and another key", []string{"edge", "release-b"}, []string{"release-b"}, []string{"edge"}, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := mustOpen(t, sign(t, KindRole, role, c.signers...))
			s := d.SignaturesFor(targets)
			if s.Threshold != 2 || !slices.Equal(s.Good, keyIDs(t, c.good...)) || !slices.Equal(s.Unlisted, keyIDs(t, c.unlisted...)) || len(s.Bad) != 0 {
				t.Errorf("got %+v", s)
			}
			if s.Missing() != c.missing || s.Complete() != (c.missing == 0) {
				t.Errorf("%d missing, complete %t", s.Missing(), s.Complete())
			}
			if none := d.SignaturesFor(nil); none.Threshold != 0 || none.Complete() || len(none.Unlisted) != len(c.signers) {
				t.Errorf("without a lister: %+v", none)
			}
		})
	}
}

func TestASignatureUnderOtherContentIsBad(t *testing.T) {
	r := newRepo(t)
	targets := mustOpen(t, r.files["1.targets.json"])
	altered := bytes.Replace(r.files["1.stable-x86_64.json"], []byte(`"release": "2026.10"`), []byte(`"release": "2026.66"`), 1)
	s := mustOpen(t, altered).SignaturesFor(targets)
	if len(s.Bad) != 2 || len(s.Good) != 0 || s.Complete() {
		t.Errorf("got %+v", s)
	}
}

func TestASignedDocumentKeepsItsDigestAndItsOtherSignatures(t *testing.T) {
	r := newRepo(t)
	targets := mustOpen(t, r.files["1.targets.json"])
	d := mustOpen(t, sign(t, KindRole, r.manifest("stable", "x86_64", "2026.11"), "release-a"))
	second, err := d.Sign(signerOf(t, "release-b"))
	r.ok(err)
	again, err := second.Sign(signerOf(t, "release-b"))
	r.ok(err)
	for name, signed := range map[string]*Document{"signed": second, "signed twice by one key": again} {
		if !signed.SignaturesFor(targets).Complete() || signed.Digest() != d.Digest() || len(signed.signatures) != 2 {
			t.Errorf("%s: %+v", name, signed.SignaturesFor(targets))
		}
		if _, err := CheckRole(r.root, r.files["1.targets.json"], signed.Data(), today); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if len(d.signatures) != 1 {
		t.Error("the first document was changed")
	}
	other := mustOpen(t, sign(t, KindRole, r.manifestAgain("stable", "x86_64", "2026.11"), "edge"))
	merged, err := second.Merge(other)
	r.ok(err)
	if s := merged.SignaturesFor(targets); len(s.Good) != 2 || len(s.Unlisted) != 1 {
		t.Errorf("merged: %+v", s)
	}
}

// manifestAgain is the manifest that was made last.
func (r *repo) manifestAgain(channel, arch, version string) *metadata.Metadata[metadata.TargetsType] {
	r.numbers[channel+"-"+arch]--
	return r.manifest(channel, arch, version)
}

func TestADocumentShowsWhatItsFileContains(t *testing.T) {
	r := newRepo(t)
	for name, c := range map[string]struct {
		role      string
		roles     int
		metaFiles int
		signed    time.Time
	}{
		"1.root.json":          {"root", 4, 0, time.Time{}},
		"1.targets.json":       {"targets", 3, 0, time.Time{}},
		"1.snapshot.json":      {"snapshot", 0, 2, time.Time{}},
		"timestamp.json":       {"timestamp", 0, 1, r.signedAt},
		"1.stable-x86_64.json": {"stable-x86_64", 0, 0, r.signedAt},
	} {
		t.Run(name, func(t *testing.T) {
			d := mustOpen(t, r.files[name])
			if d.Role() != c.role || d.Version() != 1 || d.Repository() != production || len(d.Digest()) != 64 {
				t.Errorf("role %s, version %d, repository %s, digest %s", d.Role(), d.Version(), d.Repository(), d.Digest())
			}
			if len(d.Roles()) != c.roles || len(d.MetaFiles()) != c.metaFiles || !d.SignedAt().Equal(c.signed) {
				t.Errorf("roles %v, files %v, signed at %s", d.Roles(), d.MetaFiles(), d.SignedAt())
			}
			if err := d.CheckName(name); err != nil {
				t.Error(err)
			}
			if err := d.CheckName("2.root.json"); !errors.Is(err, ErrUntrusted) {
				t.Errorf("as 2.root.json: %v", err)
			}
			if err := errors.Join(d.CheckExpiry(time.Time{}), d.CheckExpiry(d.Expires().Add(-time.Second))); err != nil {
				t.Errorf("before it expires: %v", err)
			}
			if err := d.CheckExpiry(d.Expires()); !errors.Is(err, ErrExpired) {
				t.Errorf("at its expiry date: %v", err)
			}
		})
	}
}

func TestSignedFieldsThatAreNotReadAreListed(t *testing.T) {
	for _, c := range []struct {
		name     string
		kind     Kind
		old, new string // of the golden file
		want     []string
	}{
		{"a field of the file", KindTimestamp, `"expires"`, `"x-more": [1, 2], "expires"`, []string{"x-more = [1,2]"}},
		{"a field of an entry", KindTimestamp, `"length"`, `"size": 9, "length"`, []string{"meta.snapshot.json.size = 9"}},
		{"a field of the extension", KindRole, `"release"`, `"licence": "x", "release"`, []string{`x-phaseboot.licence = "x"`}},
		{"a field of an artifact", KindRole, `"role": "kernel"`, `"role": "kernel", "x-a": {"b": 1}`, []string{`targets.stable/x86_64/kernel.custom.x-a = {"b":1}`}},
		{"a field of a list", KindTargets, `"name": "stable-x86_64"`, `"name": "stable-x86_64", "x-note": true`, []string{"delegations.roles[0].x-note = true"}},
		{"the largest number", KindRoot, `"keys"`, `"x": 9007199254740992, "keys"`, []string{"x = 9007199254740992"}},
		{"a field of a root's role", KindRoot, `"timestamp": {`, `"timestamp": {"x": "<", `, []string{`roles.timestamp.x = "\u003c"`}},
		{"two, sorted", KindSnapshot, `"version"`, `"x-b": 1, "x-a": 2, "version"`, []string{"x-a = 2", "x-b = 1"}},
		{"fields that are not signed", KindRoot, `"signed"`, `"x": 1, "signed"`, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			golden := string(read(t, "repository", kinds[c.kind]))
			if got := mustOpen(t, []byte(golden)).Unknown(); len(got) != 0 {
				t.Errorf("of the golden file: %q", got)
			}
			i := strings.LastIndex(golden, c.old)
			if i < 0 {
				t.Fatalf("the golden file has no %s", c.old)
			}
			if got := mustOpen(t, []byte(golden[:i]+c.new+golden[i+len(c.old):])).Unknown(); !slices.Equal(got, c.want) {
				t.Errorf("got %q", got)
			}
		})
	}
}

func TestARootIsCheckedByAnOlderRoot(t *testing.T) {
	r := newRepo(t)
	r.newRoot(r.roots...)
	r.newRoot(r.roots...)
	root, err := ParseRoot(r.root)
	r.ok(err)
	second, err := root.Next(r.files["2.root.json"])
	r.ok(err)
	third := mustOpen(t, r.files["3.root.json"])
	r.roots = []string{"attacker"}
	r.rootNo = 2
	r.newRoot("attacker")
	forged := mustOpen(t, r.files["3.root.json"])
	between := files{"2.root.json": r.files["2.root.json"]}
	check := func(by *Root, d *Document, f Fetcher, now time.Time) error {
		return by.CheckRoot(t.Context(), d, f, now)
	}
	for name, c := range map[string]struct {
		err  error
		want error
	}{
		"the root itself":           {check(root, mustOpen(t, r.root), files{}, today), nil},
		"two versions later":        {check(root, third, between, today), nil},
		"one version later":         {check(second, third, files{}, today), nil},
		"expired":                   {check(root, third, between, today.Add(366*day)), ErrExpired},
		"an older one":              {check(second, mustOpen(t, r.root), files{}, today), ErrRollback},
		"signed by another key":     {check(root, forged, between, today), ErrSignature},
		"the same version, altered": {check(second, mustOpen(t, bytes.Replace(r.files["2.root.json"], []byte("mirror.example"), []byte("mirror.exampel"), 1)), files{}, today), ErrSignature},
	} {
		if !errors.Is(c.err, c.want) || c.want == nil && c.err != nil {
			t.Errorf("%s: got %v, want %v", name, c.err, c.want)
		}
	}
	if err := check(root, third, files{}, today); err == nil {
		t.Error("accepted without the root between")
	}
}

func TestFilesAreComparedWithTheHashesThatNameThem(t *testing.T) {
	r := newRepo(t)
	r.ok(CheckHashes(t.Context(), r.files))
	for _, name := range []string{"1.snapshot.json", "1.targets.json", "1.stable-x86_64.json"} {
		if err := CheckHashes(t.Context(), with(r.files, name, append(bytes.Clone(r.files[name]), '\n'))); !errors.Is(err, ErrMixAndMatch) {
			t.Errorf("%s is one byte longer: %v", name, err)
		}
		if err := CheckHashes(t.Context(), without(r.files, name)); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s is missing: %v", name, err)
		}
	}
}

func TestVersionsOfARoleInAFolder(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{
		"2.stable-x86_64.json", "10.stable-x86_64.json", "1.stable-x86_64.json", "01.stable-x86_64.json",
		"1.edge-x86_64.json", "stable-x86_64.json", "x.stable-x86_64.json", "root.json",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if got, err := DirFetcher(dir).Versions("stable-x86_64"); err != nil || !slices.Equal(got, []int64{1, 2, 10}) {
		t.Errorf("got %v, %v", got, err)
	}
	if newest, err := DirFetcher(dir).Newest("stable-x86_64"); err != nil || newest != 10 {
		t.Errorf("newest %d, %v", newest, err)
	}
	if newest, err := DirFetcher(dir).Newest("root"); err != nil || newest != 0 {
		t.Errorf("newest root %d, %v", newest, err)
	}
	if _, err := DirFetcher(filepath.Join(dir, "missing")).Versions("root"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a missing folder: %v", err)
	}
}
