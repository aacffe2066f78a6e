package publisher

import (
	"path/filepath"
	"sync"
	"testing"
)

// Two daemons that are started at once have one identity, or none of them would know
// that the other has it.
func TestThoseWhoMakeAnIdentityAtOnceHaveTheSame(t *testing.T) {
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
