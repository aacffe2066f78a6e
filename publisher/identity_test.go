package publisher

import (
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/phaseboot/phaseboot/publisher/pubtest"
)

// Two daemons that are started at once have one identity, or none of them would know
// that the other has it.
func TestConcurrentCallsMakeOneIdentity(t *testing.T) {
	for range 50 {
		path := filepath.Join(t.TempDir(), "peer.key")
		var all sync.WaitGroup
		ids := make([]string, 4)
		for i := range ids {
			all.Go(func() {
				key, err := LoadIdentity(path)
				if err != nil {
					t.Error(err)
					return
				}
				raw, err := key.Raw()
				if err != nil {
					t.Error(err)
				}
				ids[i] = string(raw)
			})
		}
		all.Wait()
		for _, id := range ids {
			if id != ids[0] || id == "" {
				t.Fatal("there are several")
			}
		}
	}
}

func TestIdentityIsMadeOnceAndKept(t *testing.T) {
	path := filepath.Join(t.TempDir(), "peer.key")
	one, err := LoadIdentity(path)
	pubtest.Check(t, err)
	two, err := LoadIdentity(path)
	pubtest.Check(t, err)
	if !one.Equals(two) {
		t.Error("another key")
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
}
