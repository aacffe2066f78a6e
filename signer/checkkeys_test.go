package signer

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/phaseboot/phaseboot/signer/key"
)

// A root key of two roots is listed by both, and is one key for a reader.
func TestARefusalNamesEachKeyOnce(t *testing.T) {
	k, err := key.Generate(t.Context(), filepath.Join(t.TempDir(), "other.key"), nil)
	if err != nil {
		t.Fatal(err)
	}
	a, b := strings.Repeat("a", 64), strings.Repeat("b", 64)
	err = checkKeys("root", []string{b, a, a}, []key.Key{k})
	if err == nil || !strings.HasSuffix(err.Error(), "its keys are aaaaaaaa…, bbbbbbbb…") {
		t.Errorf("got %v", err)
	}
}
