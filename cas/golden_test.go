package cas_test

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"os"
	"testing"

	"github.com/phaseboot/phaseboot/cas/castest"
)

// goldenChunks are testdata/chunks.json: frozen cut points and root CIDs. castest.Bytes(0, 2 MiB) is
// the input of Cuts, castest.Bytes(5, size) the input of Kubo.
type goldenChunks struct {
	Input string `json:"input_sha256"` // of the input of Cuts
	Cuts  []struct {
		Chunker, Root string
		Leaves        []int // sizes in bytes
	}
	Kubo []struct { // what `ipfs add` prints
		Chunker, Root string
		Size          int // bytes
	}
}

func readGoldenChunks(t *testing.T) (g goldenChunks) {
	t.Helper()
	data, err := os.ReadFile("../testdata/chunks.json")
	if err == nil {
		err = json.Unmarshal(data, &g)
	}
	if err != nil || len(g.Cuts) < 5 || len(g.Kubo) < 7 {
		t.Fatalf("%d chunkers, %d files of Kubo, %v", len(g.Cuts), len(g.Kubo), err)
	}
	if sum := sha256.Sum256(castest.Bytes(0, 1<<21)); hex.EncodeToString(sum[:]) != g.Input {
		t.Fatalf("the input has SHA-256 %x", sum)
	}
	return g
}
