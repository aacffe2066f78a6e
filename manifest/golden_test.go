package manifest

import (
	"bytes"
	"flag"
	"os"
	"path/filepath"
	"testing"

	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/internal/ed25519pem"
)

var update = flag.Bool("update", false, "write ../testdata/repository again, after a change of the format")

// The repository in testdata fixes the format: deployed machines read these bytes.
func TestGoldenRepositoryIsMadeByteForByte(t *testing.T) {
	r := newRepo(t)
	dir := filepath.Join(vectors, "repository")
	golden := testKeys(t)
	for name, data := range r.files {
		golden[name] = data
	}
	for _, role := range []string{"dtb/board.dtb", RoleInitramfs, "job/hello.wasm", RoleKernel, RoleRootfs} {
		golden["artifacts/"+role] = content("stable", "x86_64", "2026.10", role)
	}
	for name, data := range golden {
		path := filepath.Join(dir, name)
		if *update {
			r.ok(os.MkdirAll(filepath.Dir(path), 0o755))
			r.ok(os.WriteFile(path, data, 0o644))
		}
		want, err := os.ReadFile(path)
		r.ok(err)
		if !bytes.Equal(want, data) {
			t.Errorf("%s is not as it was:\n%s", name, data)
		}
	}
	r.boot(DirFetcher(dir), r.policy(""))
}

// testKeys are the private keys of the repository as PEM files. They are public: no real repository
// may list them.
func testKeys(t *testing.T) files {
	t.Helper()
	keys := files{}
	for _, name := range []string{"root-a", "root-b", "release-a", "release-b", "edge", "online"} {
		data, err := ed25519pem.Marshal(key(name))
		if err != nil {
			t.Fatal(err)
		}
		keys["keys/TEST-ONLY-"+name+".pem"] = append([]byte("This is a key for tests. It is public: never use it for a real repository.\n"), data...)
	}
	return keys
}

// The artifacts in testdata are the ones that the release names.
func TestGoldenArtifactsMatchTheRelease(t *testing.T) {
	dir := filepath.Join(vectors, "repository")
	read := func(name string) []byte {
		data, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		return data
	}
	release, err := CheckRole(read("1.root.json"), read("1.targets.json"), read("1.stable-x86_64.json"), today)
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range release.Artifacts {
		f, err := cas.FileCID(t.Context(), bytes.NewReader(read("artifacts/"+a.Role)), a.Chunker)
		if err != nil || f.CID != a.CID || f.Size != a.Length {
			t.Errorf("%s: %s of %d bytes, %v", a.Role, f.CID, f.Size, err)
		}
	}
}
