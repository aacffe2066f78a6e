package manifest

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/secure-systems-lab/go-securesystemslib/cjson"
	"github.com/theupdateframework/go-tuf/v2/metadata"
)

// json64 is JSON with its numbers as text.
type json64 struct{ v any }

func (j *json64) UnmarshalJSON(data []byte) error {
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.UseNumber()
	return dec.Decode(&j.v)
}

func canonical(data []byte, file *struct {
	Signed json64 `json:"signed"`
},
) (string, error) {
	if err := json.Unmarshal(data, file); err != nil {
		return "", err
	}
	return canonicalOf(file.Signed.v)
}

func canonicalOf(v any) (string, error) {
	out, err := cjson.EncodeCanonical(v)
	return string(out), err
}

// seed adds the golden files and the hostile documents.
func seed(f *testing.F, add func(kind Kind, data []byte)) {
	for kind, file := range kinds {
		add(kind, read(f, "repository", file))
	}
	add(KindRole, read(f, "submitters", kinds[KindRole]))
	add(KindRole, read(f, "rollout", kinds[KindRole]))
	for _, name := range hostileNames(f) {
		kind, data := hostile(f, name)
		add(kind, data)
	}
}

// go-tuf reads what Lint accepts without a panic or an error, and reads the same values.
func FuzzLint(f *testing.F) {
	order := []Kind{KindRoot, KindTimestamp, KindSnapshot, KindTargets, KindRole}
	seed(f, func(kind Kind, data []byte) { f.Add(byte(slices.Index(order, kind)), data) })
	f.Fuzz(func(t *testing.T, n byte, data []byte) {
		kind := order[int(n)%len(order)]
		if Lint(kind, data) != nil {
			return
		}
		if err := parseAny(kind, data); err != nil {
			t.Errorf("%s: %v\n%s", kind, err, data)
		}
	})
}

// A document that Open accepts can be written again, and keeps its digest.
func FuzzOpen(f *testing.F) {
	seed(f, func(_ Kind, data []byte) { f.Add(data) })
	f.Fuzz(func(t *testing.T, data []byte) {
		d, err := Open(data)
		if err != nil || int64(2*len(data)) > d.kind.Max() { // indented it may be too large
			return
		}
		if again, err := d.Merge(d); err != nil || again.Digest() != d.Digest() {
			t.Errorf("accepted, and another one when written again: %v", err)
		}
		if r := d.Release(); r != nil {
			role, err := Encode(*r)
			if err != nil {
				t.Fatalf("accepted, and not when it is encoded again: %v", err)
			}
			data, err := Bytes(KindRole, role)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(*r, *mustOpen(t, data).Release(), compareCIDs); diff != "" {
				t.Error(diff)
			}
			_, _ = r.For(Machine{ID: "0", Groups: []string{"lab"}}, today)
		}
	})
}

func FuzzParseRoot(f *testing.F) {
	seed(f, func(_ Kind, data []byte) { f.Add(data) })
	f.Fuzz(func(t *testing.T, data []byte) {
		root, err := ParseRoot(data)
		if err != nil {
			return
		}
		if keys, m := root.Keys(roleRoot); m < 1 || len(keys) < m || root.Version() < 1 {
			t.Errorf("%d keys, threshold %d, version %d", len(keys), m, root.Version())
		}
		m, err := Parse[metadata.RootType](KindRoot, data)
		if err != nil {
			t.Fatal(err)
		}
		out, err := m.ToBytes(true)
		if err != nil || len(out) > MaxRoot {
			return // indented it may be too large
		}
		again, err := ParseRoot(out)
		if err != nil || string(again.doc.payload) != string(root.doc.payload) || !reflect.DeepEqual(again.Discovery(), root.Discovery()) {
			t.Errorf("accepted, and another one when written again: %v", err)
		}
	})
}

// No bytes make CheckRole panic, or accept a release that the golden keys did not sign.
func FuzzVerifyRole(f *testing.F) {
	seed(f, func(_ Kind, data []byte) { f.Add(data) })
	root, targets := read(f, "repository", kinds[KindRoot]), read(f, "repository", kinds[KindTargets])
	valid, err := CheckRole(root, targets, read(f, "repository", kinds[KindRole]), today)
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		if role, _, claim, err := readRole(data); err == nil {
			if r, err := role.decode(claim.Channel, claim.Arch); err == nil {
				again, err := Encode(r)
				if err != nil {
					t.Fatalf("decoded, and not encoded again: %v", err)
				}
				if d, err := NewDocument(KindRole, again); err != nil || !reflect.DeepEqual(r, *d.Release()) {
					t.Errorf("%+v came back as %+v, %v", r, d, err)
				}
			}
		}
		if r, err := CheckRole(root, targets, data, today); err == nil && r.Version != valid.Version {
			t.Errorf("%q is not what was signed", r.Version)
		}
	})
}

// With any bytes in a file of the state, the machine boots the valid release, and the next boot
// ignores no file of the state.
func FuzzState(f *testing.F) {
	for _, file := range kinds { // few, since each run writes to a disk
		for n := range byte(6) {
			f.Add(n, read(f, "repository", file))
		}
	}
	r := newRepo(f)
	r.newRoot(r.roots...)
	r.publish()
	root, err := ParseRoot(r.root)
	r.ok(err)
	names := []string{"1.root.json", "2.root.json", "timestamp.json", "snapshot.json", "targets.json", "stable-x86_64.json"}
	f.Fuzz(func(t *testing.T, n byte, data []byte) {
		dir := t.TempDir()
		at := filepath.Join(dir, root.stateID())
		if err := os.Mkdir(at, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(at, names[int(n)%len(names)]), data, 0o600); err != nil {
			t.Fatal(err)
		}
		r := *r
		r.t = t
		p := r.policy(dir)
		if _, err := Verify(context.Background(), r.files, p); err != nil {
			t.Fatal(err)
		}
		v, err := Verify(context.Background(), r.files, p)
		if err != nil || len(v.Notes()) > 0 {
			t.Errorf("not repaired: %q, %v", v.Notes(), err)
		}
	})
}
