package repo

import (
	"cmp"
	"context"
	"crypto/ed25519"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/ipfs/go-cid"

	"github.com/phaseboot/phaseboot/internal/ipnsname"
	"github.com/phaseboot/phaseboot/internal/p2p"
)

const (
	// RecordLife is how long an IPNS record is valid, and RecordRenew the age at which it is
	// signed again: the DHT drops records after 48 hours in any case.
	RecordLife  = 48 * time.Hour
	RecordRenew = 12 * time.Hour

	recordTTL = time.Minute // how long a resolver may cache the record
)

// A Record is the IPNS record of a key. It may be read while it is signed again. One with a name alone is of another
// publisher: Take fills it.
type Record struct {
	Name string             // IPNS name of the key
	key  ed25519.PrivateKey // nil: another publisher signs it

	mu     sync.RWMutex
	folder cid.Cid
	data   []byte
	signed time.Time
}

// NewRecord refuses a key whose name root.json does not list: machines do not resolve it.
func (r *Repo) NewRecord(key ed25519.PrivateKey) (*Record, error) {
	name, err := ipnsname.Of(key.Public().(ed25519.PublicKey))
	if err != nil {
		return nil, err
	}
	if names := r.Root.Discovery().IPNS; !slices.Contains(names, name) {
		return nil, fmt.Errorf("IPNS key: its name is %s, root.json lists %s (%w); name the right --ipns-key", name, cmp.Or(strings.Join(names, ", "), "none"), fs.ErrInvalid)
	}
	return &Record{Name: name, key: key}, nil
}

// ForeignRecord returns a record that another publisher signs, for the first name in root.json.
func (r *Repo) ForeignRecord() (*Record, error) {
	names := r.Root.Discovery().IPNS
	if len(names) == 0 {
		return nil, fmt.Errorf("repository %s: root.json lists no IPNS name: %w", r.Dir, fs.ErrNotExist)
	}
	return &Record{Name: names[0]}, nil
}

// Take uses a record for folder that another publisher has signed.
func (r *Record) Take(folder cid.Cid, data []byte) error {
	end, err := p2p.RecordEnd(data)
	if err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.folder, r.data, r.signed = folder, data, end.Add(-RecordLife)
	return nil
}

// Point signs and returns a record for p, or returns the one for p that is younger than
// RecordRenew. Without a key it returns the record that was taken last.
func (r *Record) Point(p *Pointer, now time.Time) ([]byte, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.key == nil || r.folder.Equals(p.Folder) && now.Sub(r.signed) < RecordRenew {
		return r.data, nil
	}
	data, err := p2p.NewRecord(r.key, p.Folder, uint64(p.Timestamp), now.Add(RecordLife), recordTTL)
	if err != nil {
		return nil, err
	}
	r.folder, r.data, r.signed = p.Folder, data, now
	return data, nil
}

// Get returns the record for its own name, and fs.ErrNotExist for any other.
func (r *Record) Get(_ context.Context, name string) ([]byte, error) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	if name != r.Name || r.data == nil {
		return nil, fmt.Errorf("IPNS name %.80q: %w", name, fs.ErrNotExist)
	}
	return r.data, nil
}

// Folder is the metadata folder that the record points to, cid.Undef without a record.
func (r *Record) Folder() cid.Cid {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.folder
}

// Age is the time since the record was signed.
func (r *Record) Age(now time.Time) time.Duration {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return now.Sub(r.signed)
}
