package manifest

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/theupdateframework/go-tuf/v2/metadata"
)

// kinds are the files of the golden repository.
var kinds = map[Kind]string{
	KindRoot: "1.root.json", KindTimestamp: "timestamp.json", KindSnapshot: "1.snapshot.json",
	KindTargets: "1.targets.json", KindRole: "1.stable-x86_64.json",
}

func TestLintAcceptsTheGoldenRepository(t *testing.T) {
	for kind, file := range kinds {
		if err := Lint(kind, read(t, "repository", file)); err != nil {
			t.Errorf("%s: %v", file, err)
		}
	}
}

// Each folder of hostile has one file that differs from the one of repository, submitters or rollout in one
// thing, which the folder is named after, and the text of its refusal.
func TestAttackHostileJSON(t *testing.T) {
	for _, name := range hostileNames(t) {
		t.Run(name, func(t *testing.T) {
			kind, data := hostile(t, name)
			says := strings.TrimSpace(string(read(t, "hostile/"+name, "refusal.txt")))
			refused(t, Lint(kind, data), ErrMalformed, says)
		})
	}
	for kind, file := range kinds {
		t.Run("valid case: "+string(kind), func(t *testing.T) {
			if err := Lint(kind, read(t, "repository", file)); err != nil {
				t.Error(err)
			}
		})
	}
}

// vectors is the folder of files that other implementations can use too.
const vectors = "../testdata"

// hostileNames lists the folders of hostile documents.
func hostileNames(t testing.TB) (names []string) {
	t.Helper()
	folders, err := os.ReadDir(filepath.Join(vectors, "hostile"))
	if err != nil || len(folders) < 80 {
		t.Fatalf("%d hostile documents, %v", len(folders), err)
	}
	for _, folder := range folders {
		names = append(names, folder.Name())
	}
	return names
}

// hostile reads the metadata file of a hostile document.
func hostile(t testing.TB, name string) (Kind, []byte) {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(vectors, "hostile", name, "*.json"))
	if err != nil || len(found) != 1 {
		t.Fatalf("%s: %d files, %v", name, len(found), err)
	}
	kind := Kind(strings.TrimSuffix(filepath.Base(found[0]), ".json"))
	if _, ok := kinds[kind]; !ok {
		t.Fatalf("%s: unknown kind", found[0])
	}
	return kind, read(t, "hostile/"+name, filepath.Base(found[0]))
}

func read(t testing.TB, folder, file string) []byte {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(vectors, folder, file))
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// The hostile documents are refused at every entry point for bytes from outside.
func TestAttackHostileJSONAtEveryEntryPoint(t *testing.T) {
	r := newRepo(t)
	r.part(t, "valid case", func(*testing.T) {
		r.boot(r.files, r.policy(""))
		_, err := CheckRole(r.root, r.files["1.targets.json"], r.files["1.stable-x86_64.json"], today)
		r.ok(err)
	})
	for _, name := range hostileNames(t) {
		kind, data := hostile(t, name)
		p := r.policy("")
		for _, n := range []string{"2.root.json", "timestamp.json", kinds[kind]} {
			if n == "1.root.json" || name == "another-kind" {
				continue // the first root is no entry point; the other kind is valid under its own name
			}
			if _, err := Verify(t.Context(), with(r.files, n, data), p); err == nil {
				t.Errorf("%s as %s: accepted", name, n)
			}
		}
		p.Root = data
		if _, err := Verify(t.Context(), r.files, p); err == nil {
			t.Errorf("%s as trust anchor: accepted", name)
		}
		if _, err := CheckRole(data, r.files["1.targets.json"], r.files["1.stable-x86_64.json"], today); err == nil {
			t.Errorf("%s as root of CheckRole: accepted", name)
		}
		if _, err := CheckRole(r.root, data, r.files["1.stable-x86_64.json"], today); err == nil {
			t.Errorf("%s as targets of CheckRole: accepted", name)
		}
		if _, err := CheckRole(r.root, r.files["1.targets.json"], data, today); err == nil {
			t.Errorf("%s as role of CheckRole: accepted", name)
		}
	}
}

func TestLintAcceptsUnknownFields(t *testing.T) {
	for _, row := range []struct {
		name     string
		kind     Kind
		old, new string
	}{
		{"an unknown field of a release", KindRole, `"min_ram": 512`, `"min_ram": 512, "licence": {"name": "x", "parts": [true]}`},
		{"an unknown kind of discovery", KindRoot, `"ipns": "`, `"onion": {"port": 1}, "x": "`},
		{"an unknown field of a discovery entry", KindRoot, `"ipns": "`, `"weight": 3, "ipns": "`},
		{"an unknown field of the top level", KindTimestamp, `"signatures": [`, `"x": {}, "signatures": [`},
		{"the largest integer", KindRole, `"min_ram": 512`, `"min_ram": 512, "x": 9007199254740992`},
	} {
		t.Run(row.name, func(t *testing.T) {
			data := strings.Replace(string(read(t, "repository", kinds[row.kind])), row.old, row.new, 1)
			if !strings.Contains(data, row.new) {
				t.Fatal("the golden file has changed")
			}
			if err := Lint(row.kind, []byte(data)); err != nil {
				t.Error(err)
			}
			if err := parseAny(row.kind, []byte(data)); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestDiscoveryLeavesOutUnknownKinds(t *testing.T) {
	golden := string(read(t, "repository", kinds[KindRoot]))
	start, end := strings.Index(golden, `"discovery": [`), strings.Index(golden, `"repository":`)
	data := golden[:start] + `"discovery": [{"onion": {"port": 1}}, {"https": "http://192.0.2.7:8080/phase", "weight": 3}], ` + golden[end:]
	if d := mustOpen(t, []byte(data)).Discovery(); len(d.HTTPS) != 1 || len(d.IPNS) != 0 {
		t.Errorf("%+v", d)
	}
}

// Other kinds may have fields of these names, which Lint does not check.
func TestDiscoveryIsThatOfARootAlone(t *testing.T) {
	for kind, name := range kinds {
		golden := string(read(t, "repository", name))
		data := strings.Replace(golden, `"repository":`, `"discovery": ["x"], "dht": {"bootstrap": [1]}, "repository":`, 1)
		if kind == KindRoot || data == golden {
			continue
		}
		if d := mustOpen(t, []byte(data)).Discovery(); len(d.IPNS)+len(d.HTTPS)+len(d.Bootstrap) != 0 {
			t.Errorf("%s: %+v", kind, d)
		}
	}
}

// parseAny gives data to go-tuf as the kind says.
func parseAny(kind Kind, data []byte) error {
	switch kind {
	case KindRoot:
		m, err := metadata.Root().FromBytes(data)
		return again(kind, m, err, data)
	case KindTimestamp:
		m, err := metadata.Timestamp().FromBytes(data)
		return again(kind, m, err, data)
	case KindSnapshot:
		m, err := metadata.Snapshot().FromBytes(data)
		return again(kind, m, err, data)
	default:
		m, err := metadata.Targets().FromBytes(data)
		return again(kind, m, err, data)
	}
}

// again compares the canonical JSON of what go-tuf read with that of the file: go-tuf verifies
// signatures over what it read.
func again[T metadata.Roles](kind Kind, m *metadata.Metadata[T], err error, data []byte) error {
	if err != nil {
		return err
	}
	var file struct {
		Signed json64 `json:"signed"`
	}
	was, err := canonical(data, &file)
	if err != nil {
		return err
	}
	is, err := canonicalOf(m.Signed)
	if err != nil {
		return err
	}
	if is != was {
		return fmt.Errorf("read as %s\nfrom    %s", is, was)
	}
	doc, err := open(kind, data)
	if err != nil {
		return err
	}
	if string(doc.payload) != is {
		return fmt.Errorf("go-tuf checks signatures over %s\nwe over %s", is, doc.payload)
	}
	return rewritten(kind, m, doc)
}

// rewritten compares a file with the file that go-tuf writes after reading it.
func rewritten[T metadata.Roles](kind Kind, m *metadata.Metadata[T], was *Document) error {
	out, err := m.ToBytes(true)
	if err != nil || int64(len(out)) > kind.Max() {
		return err // indented it may be too large
	}
	is, err := open(kind, out)
	if err == nil && (!bytes.Equal(is.payload, was.payload) || !reflect.DeepEqual(is.signatures, was.signatures)) {
		err = fmt.Errorf("written again as %s", out)
	}
	return err
}
