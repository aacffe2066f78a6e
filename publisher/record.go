package publisher

import (
	"context"
	"crypto/ed25519"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/ipfs/go-cid"

	"github.com/phaseboot/phaseboot/internal/p2p"
)

const (
	// A record is signed for recordLife and again when recordRenew has passed: the DHT
	// forgets records after 48 hours in any case.
	recordLife  = 48 * time.Hour
	recordRenew = 12 * time.Hour
	recordTTL   = time.Minute // how long a resolver may keep the answer
)

// records holds the IPNS record of the head.
type records struct {
	key  ed25519.PrivateKey
	name string

	mu     sync.RWMutex
	folder cid.Cid
	data   []byte
	made   time.Time
}

// newRecords refuses a key whose name no machine would look for.
func newRecords(key ed25519.PrivateKey, names []string) (*records, error) {
	name, err := p2p.Name(key.Public().(ed25519.PublicKey))
	if err != nil {
		return nil, err
	}
	if !slices.Contains(names, name) {
		listed := strings.Join(names, ", ")
		if listed == "" {
			listed = "none"
		}
		return nil, fmt.Errorf("IPNS key: its name is %s, root.json lists %s (%w); name the right --ipns-key", name, listed, fs.ErrInvalid)
	}
	return &records{key: key, name: name}, nil
}

// point makes a record for the head unless the one there is good for a while.
func (r *records) point(h *Head, now time.Time) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.folder.Equals(h.Folder) && now.Sub(r.made) < recordRenew {
		return nil
	}
	data, err := p2p.NewRecord(r.key, h.Folder, uint64(h.Timestamp), now.Add(recordLife), recordTTL)
	if err != nil {
		return err
	}
	r.folder, r.data, r.made = h.Folder, data, now
	return nil
}

// get returns the record of a name, which is ours or is not there.
func (r *records) get(_ context.Context, name string) ([]byte, error) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	if name != r.name || r.data == nil {
		return nil, fmt.Errorf("IPNS name %.80q: %w", name, fs.ErrNotExist)
	}
	return r.data, nil
}

// age is the time since the record was signed.
func (r *records) age(now time.Time) time.Duration {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return now.Sub(r.made)
}
