package manifest

import (
	"bytes"
	"crypto/ed25519"
	"encoding/json"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// submitter is a submitter with every grant.
func submitter(name string) Submitter {
	return Submitter{
		Name: name, Key: public(name)[0], Jobs: 4,
		Limits: SubmitterLimits{Memory: 256 << 20, Timeout: 60_000, CPU: 30_000, Output: 64 << 10},
		Grants: SubmitterGrants{Stdin: true, Scratch: 16 << 20, Artifacts: []string{RoleRootfs, "job/hello.wasm"}, Clock: true, Random: true},
	}
}

// modest is a submitter without a grant.
func modest(name string) Submitter {
	s := submitter(name)
	s.Jobs, s.Grants = 1, SubmitterGrants{}
	return s
}

// crowd is a list of submitters.
func crowd(n int) (list []Submitter) {
	for i := range n {
		list = append(list, modest("ci"+strconv.Itoa(i)))
	}
	return list
}

func TestReleaseWithSubmittersIsEncodedAndDecoded(t *testing.T) {
	for name, list := range map[string][]Submitter{
		"none":                   nil,
		"all grants, and none":   {submitter("zoe"), modest("ci@build.example")},
		"as many as are allowed": crowd(MaxSubmitters),
		"the largest numbers": {{
			Name: "x", Key: public("x")[0], Jobs: 1<<31 - 1, Limits: SubmitterLimits{maxInteger, maxInteger, maxInteger, maxInteger},
			Grants: SubmitterGrants{Scratch: maxInteger},
		}},
	} {
		t.Run(name, func(t *testing.T) {
			want := valid()
			want.Submitters = list
			role, err := Encode(want)
			if err != nil {
				t.Fatal(err)
			}
			d := mustOpen(t, sign(t, KindRole, role, "release-a"))
			if diff := cmp.Diff(want, *d.Release(), compareCIDs); diff != "" {
				t.Error(diff)
			}
			if len(d.Unknown()) > 0 {
				t.Errorf("unknown fields: %q", d.Unknown())
			}
			data, err := json.Marshal(want)
			if err != nil {
				t.Fatal(err)
			}
			var got Release
			if err := json.Unmarshal(data, &got); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(want, got, compareCIDs); diff != "" {
				t.Errorf("from JSON: %s", diff)
			}
		})
	}
}

func TestEncodeRefusesSubmitters(t *testing.T) {
	one := func(change func(*Submitter)) []Submitter {
		s := submitter("ci")
		change(&s)
		return []Submitter{s}
	}
	for _, row := range []struct {
		name string
		list []Submitter
		says string
	}{
		{"one too many", crowd(MaxSubmitters + 1), "submitters: 65 submitters; there must be 1 to 64"},
		{"no name", one(func(s *Submitter) { s.Name = "" }), `submitters[0].name: "" is not a name of letters`},
		{"a name with an escape sequence", one(func(s *Submitter) { s.Name = "a\x1b[2J" }), "is not a name of letters"},
		{"a name of 65 bytes", one(func(s *Submitter) { s.Name = strings.Repeat("a", 65) }), "is not a name of letters"},
		{"no key", one(func(s *Submitter) { s.Key = nil }), `submitters[0].key: "" is not 64 lower-case hex digits`},
		{"a key of 31 bytes", one(func(s *Submitter) { s.Key = s.Key[:31] }), "is not 64 lower-case hex digits"},
		{"one name for two keys", []Submitter{modest("a"), {Name: "a", Key: public("b")[0], Jobs: 1, Limits: modest("b").Limits}}, `submitters[1]: the name "a" or the key`},
		{"one key under two names", []Submitter{modest("a"), {Name: "b", Key: public("a")[0], Jobs: 1, Limits: modest("b").Limits}}, "is named twice"},
		{"no job at a time", one(func(s *Submitter) { s.Jobs = 0 }), "submitters[0].jobs: 0 is not within 1"},
		{"no memory", one(func(s *Submitter) { s.Limits.Memory = 0 }), "limits.memory_bytes: 0 is not within 1"},
		{"negative time", one(func(s *Submitter) { s.Limits.Timeout = -1 }), "limits.timeout_ms: -1 is not within 1"},
		{"no CPU time", one(func(s *Submitter) { s.Limits.CPU = 0 }), "limits.cpu_ms: 0 is not within 1"},
		{"an output beyond 2^53", one(func(s *Submitter) { s.Limits.Output = maxInteger + 1 }), "limits.output_bytes: the number"},
		{"a negative scratch folder", one(func(s *Submitter) { s.Grants.Scratch = -1 }), "grants.scratch_bytes: -1 is not within 0"},
		{"an artifact twice", one(func(s *Submitter) { s.Grants.Artifacts = []string{RoleRootfs, RoleRootfs} }), `grants.artifacts[1]: "rootfs" is named twice`},
		{"an artifact that is not there", one(func(s *Submitter) { s.Grants.Artifacts = []string{"boot/kernel"} }), `submitter "ci" may read "boot/kernel", which is not one of the artifacts`},
	} {
		t.Run(row.name, func(t *testing.T) {
			r := valid()
			r.Submitters = row.list
			_, err := Encode(r)
			refused(t, err, ErrMalformed, row.says)
		})
	}
}

// A reader that does not know a field of a submitter reads the others, and lists it.
func TestUnknownFieldOfASubmitterIsListed(t *testing.T) {
	data := bytes.Replace(read(t, "submitters", kinds[KindRole]), []byte(`"stdin": true`), []byte(`"network": true, "stdin": true`), 1)
	d := mustOpen(t, data)
	want := `x-phaseboot.submitters[0].grants.network = true`
	if got := d.Unknown(); len(got) != 1 || got[0] != want {
		t.Errorf("unknown fields %q, want %q", got, want)
	}
	if !d.Release().Submitters[0].Grants.Stdin {
		t.Error("the grant beside it was not read")
	}
}

func TestSubmitterIsFoundByItsKey(t *testing.T) {
	r := valid()
	r.Submitters = []Submitter{modest("a"), submitter("b")}
	if s, ok := r.Submitter(public("b")[0]); !ok || s.Name != "b" {
		t.Errorf("%q, %t", s.Name, ok)
	}
	for _, key := range []ed25519.PublicKey{public("c")[0], nil, {}} {
		if s, ok := r.Submitter(key); ok {
			t.Errorf("%x is %q", key, s.Name)
		}
	}
}

func TestSubmitterFromJSONNeedsAWholeKey(t *testing.T) {
	for _, key := range []string{"", "ff", strings.Repeat("F", 64), strings.Repeat("0", 66)} {
		err := json.Unmarshal([]byte(`{"name": "ci", "key": "`+key+`", "jobs": 1}`), new(Submitter))
		refused(t, err, ErrMalformed, `submitter "ci": the key "`+key+`" is not 64 lower-case hex digits`)
	}
}

// The caller of Verified.Release cannot change what was verified.
func TestReleaseOfVerifiedIsACopy(t *testing.T) {
	v := &Verified{release: valid()}
	v.release.Submitters = []Submitter{submitter("ci")}
	r := v.Release()
	r.Submitters[0].Key[0] ^= 1
	r.Submitters[0].Grants.Artifacts[0] = "other"
	if diff := cmp.Diff([]Submitter{submitter("ci")}, v.Release().Submitters); diff != "" {
		t.Error(diff)
	}
}

// The vector is a release that the golden repository could have next: its targets.json lists the keys.
func TestGoldenSubmittersAreMadeByteForByte(t *testing.T) {
	r := newRepo(t)
	release := sample("stable", "x86_64", "2026.10", 1, r.signedAt, r.expires["release"])
	release.Repository = r.id
	release.Submitters = []Submitter{submitter("submitter-a"), modest("submitter-b")}
	role, err := Encode(release)
	r.ok(err)
	data := sign(t, KindRole, role, r.owners...)
	path := filepath.Join(vectors, "submitters", kinds[KindRole])
	if *update {
		r.ok(os.MkdirAll(filepath.Dir(path), 0o755))
		r.ok(os.WriteFile(path, data, 0o644))
	}
	if want := read(t, "submitters", kinds[KindRole]); !bytes.Equal(want, data) {
		t.Errorf("%s is not as it was:\n%s", path, data)
	}
	got, err := CheckRole(read(t, "repository", "1.root.json"), read(t, "repository", "1.targets.json"), data, today)
	r.ok(err)
	if diff := cmp.Diff(release, got, compareCIDs); diff != "" {
		t.Error(diff)
	}
}
