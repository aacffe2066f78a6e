package publisher

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"time"

	"github.com/ipfs/go-cid"

	"github.com/phaseboot/phaseboot/internal/p2p"
	"github.com/phaseboot/phaseboot/publisher/bucket"
	"github.com/phaseboot/phaseboot/publisher/repo"
	"github.com/phaseboot/phaseboot/publisher/store"
)

// replicaPoll is how often a replica looks for newer metadata.
const replicaPoll = 10 * time.Second

// A publication is what publishMetadata has written last.
type publication struct {
	folder cid.Cid
	record []byte
}

// publishMetadata writes the metadata folder and the IPNS record into the object store, for replicas,
// when they have changed. An error is a problem for the operator, and no reason to stop: machines that
// ask this daemon get everything. The next refresh tries again.
func (s *server) publishMetadata(ctx context.Context, p *repo.Pointer, record []byte) {
	if s.Replica || !bucket.Is(s.Store) {
		return
	}
	if last := s.published.Load(); last != nil && last.folder.Equals(p.Folder) && bytes.Equal(last.record, record) {
		return
	}
	err := store.PutMetadata(ctx, s.Store, p, map[string][]byte{s.record().Name: record})
	if err != nil {
		err = fmt.Errorf("metadata not written for replicas: %w", err)
	} else {
		s.published.Store(&publication{p.Folder, record})
	}
	s.publishErr.Store(&err)
}

// openReplica copies the metadata from the object store, and names the copy as the repository.
func (s *server) openReplica(ctx context.Context) (err error) {
	if s.Repo != "" {
		return fmt.Errorf("replica: reads the metadata from its store (%w); leave the repository %s away", fs.ErrInvalid, s.Repo)
	}
	if s.replica, err = store.OpenReplica(ctx, s.Store, s.Log); err != nil {
		return err
	}
	s.Repo = s.replica.Dir
	return nil
}

func (s *server) closeReplica() {
	if s.replica == nil {
		return
	}
	if err := s.replica.Close(); err != nil {
		s.Log.Warn("temporary folder not removed", "cause", err)
	}
}

// refreshReplica copies newer metadata, and moves the pointer. It never goes back to an older one, which another
// publisher or a restored backup may have written into the object store.
func (s *server) refreshReplica(ctx context.Context) error {
	if _, err := s.replica.Pull(ctx); err != nil {
		return err
	}
	r, err := repo.Open(ctx, s.repo.Dir)
	if err != nil {
		return err
	}
	next, err := r.ReadPointer(ctx)
	if err != nil {
		return err
	}
	old, _ := s.source.current()
	if old != nil {
		if err := next.CheckReplaces(old.Files.Timestamp(), old.Files.Root()); err != nil {
			return fmt.Errorf("metadata in the object store: %w, which is served; run phase-publish serve with the newest repository", err)
		}
	}
	if old == nil || !old.Folder.Equals(next.Folder) {
		if err := s.load(ctx, r); err != nil {
			return err
		}
	}
	return s.takeRecord(r.Root.Discovery().IPNS)
}

// takeRecord serves the IPNS record from the object store that points to the newest metadata folder that is served here:
// the one before, while the record of the newest is not written yet. Of several names, one may be of a key that no
// publisher has any more. It does not go back from the record of a newer folder.
func (s *server) takeRecord(names []string) (errs error) {
	served := s.source.all() // the newest first
	age := func(folder cid.Cid) int {
		i := slices.IndexFunc(served, func(g *generation) bool { return g.Folder.Equals(folder) })
		if i < 0 {
			return len(served)
		}
		return i
	}
	newest := min(age(s.record().Folder()), len(served)-1)
	for _, name := range slices.Backward(names) { // of equal ones, the first remains
		data, ok := s.replica.Records[name]
		if !ok {
			continue
		}
		folder, _, err := p2p.CheckRecord(name, data)
		if err == nil && age(folder) <= newest {
			newest = age(folder)
			next := s.record()
			if next.Name != name {
				next = &repo.Record{Name: name}
			}
			err = s.use(next, next.Take(folder, data))
		}
		if err != nil {
			errs = errors.Join(errs, fmt.Errorf("IPNS record in the object store: %w", err))
		}
	}
	return errs
}
