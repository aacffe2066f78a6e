package gateway

import (
	"bytes"
	"encoding/json"
	"flag"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"

	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/cas/castest"
)

var update = flag.Bool("update", false, "write ../../testdata/car again, after a change of the format")

// carVectors is testdata/car/car.json.
type carVectors struct {
	Chunker string   `json:"chunker"`
	Request string   `json:"request"` // the answer is file.car
	Root    string   `json:"root"`
	Blocks  []string `json:"blocks"` // in the order of the CAR
}

// The CAR in testdata is the answer of a gateway for the file beside it.
func TestVectorsOfACAR(t *testing.T) {
	dir := filepath.Join("..", "..", "testdata", "car")
	file, blocks := castest.Bytes(7, 3000), cas.NewMemory()
	root, err := cas.AddFile(t.Context(), blocks.Put, bytes.NewReader(file), "size-1024")
	ok(t, err)
	v := carVectors{Chunker: "size-1024", Request: "GET /ipfs/" + root.CID.String() + "?format=car", Root: root.CID.String()}
	leaves, err := cas.Leaves(t.Context(), blocks, root.CID, root.Size)
	ok(t, err)
	v.Blocks = append(v.Blocks, v.Root)
	for _, l := range leaves {
		v.Blocks = append(v.Blocks, l.CID.String())
	}
	answer := httptest.NewRecorder()
	Handler(Options{Source: blocks}).ServeHTTP(answer, httptest.NewRequest("GET", v.Request[len("GET "):], nil))
	about, err := json.MarshalIndent(v, "", "  ")
	ok(t, err)
	for name, data := range map[string][]byte{"file": file, "file.car": answer.Body.Bytes(), "car.json": append(about, '\n')} {
		if *update {
			ok(t, os.MkdirAll(dir, 0o755))
			ok(t, os.WriteFile(filepath.Join(dir, name), data, 0o644))
		}
		if want, err := os.ReadFile(filepath.Join(dir, name)); err != nil || !bytes.Equal(want, data) {
			t.Errorf("%s is not as it was: %v", name, err)
		}
	}
	read := readCAR(t, answer.Body.Bytes(), root.CID) // go-car's reader
	if len(read) != len(v.Blocks) {
		t.Errorf("%d blocks, want %d", len(read), len(v.Blocks))
	}
}
