package publisher

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/ipfs/go-cid"
	"golang.org/x/sync/errgroup"

	"github.com/phaseboot/phaseboot/internal/p2p"
)

const (
	// A record is signed for recordLife and again when recordRenew has passed: the DHT
	// forgets records after 48 hours in any case.
	recordLife  = 48 * time.Hour
	recordRenew = 12 * time.Hour
	recordTTL   = time.Minute // how long a resolver may keep the answer

	// The DHT's nodes keep what they were told in memory. In a private one there may be
	// a single node, whose restart must not hide us for long.
	privateRepublish = 5 * time.Minute
	publicRepublish  = 11 * time.Hour
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
		return nil, fmt.Errorf("IPNS key: its name is %s, root.json lists %s; name the right --ipns-key: %w", name, listed, fs.ErrInvalid)
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

// announce tells the DHT where the head is, whenever it moves and from time to time.
func (s *server) announce(ctx context.Context) {
	again := privateRepublish
	if s.DHT == DHTPublic {
		again = publicRepublish
	}
	alone := false // said already
	for ctx.Err() == nil {
		head, moved := s.heads.current()
		next := time.NewTimer(again)
		if !s.tellUntil(ctx, head, moved, again) && !alone {
			alone = true
			s.Log.Info("no other DHT node yet; machines that know this one find it, and so do neighbours with mDNS; --bootstrap names another")
		}
		select {
		case <-moved:
		case <-next.C:
		case <-ctx.Done():
		}
		next.Stop()
	}
}

// tellUntil tells of a head until it is done, there is a newer head or time is up;
// false says that in all that time there was nobody to tell.
func (s *server) tellUntil(ctx context.Context, head *Head, moved <-chan struct{}, limit time.Duration) bool {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- s.tell(ctx, head) }()
	select {
	case err := <-done:
		if err != nil && ctx.Err() == nil {
			s.Log.Warn("DHT", "cause", err)
		}
		return !errors.Is(ctx.Err(), context.DeadlineExceeded)
	case <-moved:
		cancel()
		<-done
		return true
	}
}

// tell puts the record and the providers of the folder and of every artifact. All at
// once: each is known to our own DHT node from the first moment, and waits for a
// neighbour to tell.
func (s *server) tell(ctx context.Context, h *Head) error {
	record, err := s.records.get(ctx, s.records.name)
	if err != nil {
		return err
	}
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error {
		if err := s.node.PutIPNS(ctx, s.records.name, record); err != nil {
			return fmt.Errorf("IPNS record: %w", err)
		}
		return nil
	})
	for _, c := range h.announced() {
		group.Go(func() error {
			if err := s.node.Provide(ctx, c); err != nil {
				return fmt.Errorf("provide %s: %w", c, err)
			}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return err
	}
	s.Log.Info("announced in the DHT", "folder", h.Folder, "sequence", h.Timestamp)
	return nil
}

// announced lists the folder and the artifact roots, each once.
func (h *Head) announced() []cid.Cid {
	out := []cid.Cid{h.Folder}
	for _, r := range h.releases {
		for _, a := range r.Artifacts {
			if !slices.Contains(out, a.CID) {
				out = append(out, a.CID)
			}
		}
	}
	return out
}
