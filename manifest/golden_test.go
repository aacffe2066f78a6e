package manifest

import (
	"flag"
	"os"
	"path/filepath"
	"testing"
)

var update = flag.Bool("update", false, "write testdata/golden again; the format has changed")

// The golden repository freezes the format: machines in the field read these bytes.
func TestGoldenRepositoryIsMadeByteForByte(t *testing.T) {
	r := newRepo(t)
	dir := filepath.Join("testdata", "golden")
	if *update {
		r.ok(os.MkdirAll(dir, 0o755))
		for n, data := range r.files {
			r.ok(os.WriteFile(filepath.Join(dir, n), data, 0o644))
		}
	}
	for n, data := range r.files {
		want, err := os.ReadFile(filepath.Join(dir, n))
		r.ok(err)
		if string(want) != string(data) {
			t.Errorf("%s is not as it was:\n%s", n, data)
		}
	}
	r.boot(DirFetcher(dir), r.policy(""))
}
