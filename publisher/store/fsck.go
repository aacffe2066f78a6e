package store

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"slices"
	"time"

	"github.com/ipfs/go-cid"

	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/cas/pack"
	"github.com/phaseboot/phaseboot/manifest"
	"github.com/phaseboot/phaseboot/publisher/bucket"
	"github.com/phaseboot/phaseboot/publisher/repo"
)

// Options name a store and the repository whose releases it holds, and say what Fsck, GC
// and ReadStats do.
type Options struct {
	Store string
	Repo  string
	Peer  cas.Source    // Fsck: where lost blocks are fetched; nil: nothing is repaired
	Keep  int           // newest contents of each channel and architecture that are kept (GC, ReadStats: at least 1) or must be complete (Fsck: 0 is all), as repo.Newest counts them
	Pins  []cid.Cid     // GC, ReadStats: files that are kept too
	Dry   bool          // GC: only report what would be removed
	Grace time.Duration // GC: how long replaced packs stay in an object store
	Log   *slog.Logger  // nil: silent

	Progress func(done, total int64) // Fsck, GC: bytes of all packs that are read; nil: none
}

func (o Options) progress() func(done, total int64) {
	if o.Progress == nil {
		return func(int64, int64) {}
	}
	return o.Progress
}

// DefaultKeep is the default of Keep for GC, and for Fsck after it.
const DefaultKeep = 3

// A Fault is a lost block, or a damaged file of the store.
type Fault struct {
	CID      string   `json:"cid"`  // "" when a file of the store is damaged
	File     string   `json:"file"` // "" when no pack has the block
	Offset   int64    `json:"offset"`
	Cause    string   `json:"cause"`
	Releases []string `json:"releases"` // whose artifacts need it
}

// Checked is what Fsck found.
type Checked struct {
	pack.Checked
	Releases int     `json:"releases"` // with different contents, of those that must be complete
	Found    []Fault `json:"found"`
	Left     []Fault `json:"left"` // that were not repaired
}

// Fsck hashes every block of the store, and looks up every block of the newest releases of
// the repository, as Keep says: GC may have removed older ones. With a Peer it repairs what
// it found, for which no other process may write to the store, and checks again. Faults
// that are left are an error that wraps cas.ErrCorrupt.
func Fsck(ctx context.Context, o Options) (Checked, error) {
	if o.Keep < 0 {
		return Checked{}, fmt.Errorf("keep %d: %w; name a number of releases, or 0 for all", o.Keep, fs.ErrInvalid)
	}
	all, err := repo.Releases(ctx, o.Repo)
	if err != nil {
		return Checked{}, err
	}
	kept := repo.Newest(all, o.Keep)
	out := Checked{Releases: repo.Contents(kept)}
	var damage []pack.Damage
	if out.Checked, out.Found, damage, err = findFaults(ctx, o, all, kept); err != nil {
		return out, err
	}
	out.Left = out.Found
	if o.Peer != nil && len(out.Found) > 0 {
		repairErr := repair(ctx, o, kept, damage)
		if _, out.Left, _, err = findFaults(ctx, o, all, kept); err != nil {
			return out, errors.Join(repairErr, err)
		}
		if len(out.Left) > 0 {
			return out, errors.Join(faultsLeft(o.Store, out.Left), repairErr)
		}
	}
	return out, faultsLeft(o.Store, out.Left)
}

func faultsLeft(store string, left []Fault) error {
	if len(left) == 0 {
		return nil
	}
	gone := ""
	if slices.ContainsFunc(left, func(l Fault) bool { return l.File == "" }) {
		gone = "if an earlier gc removed blocks, use its --keep here; "
	}
	fresh := "an empty folder, which makes a new store"
	if bucket.Is(store) {
		fresh = "another address with --new-store"
	}
	return fmt.Errorf("store %s: faults left: %d: %w; %srepair them with phase-publish fsck --repair URL, or add the releases to %s", shown(store), len(left), cas.ErrCorrupt, gone, fresh)
}

// findFaults reads the store once. It reports damage with all releases that need the block,
// and missing blocks of the kept releases.
func findFaults(ctx context.Context, o Options, all, kept []manifest.Release) (pack.Checked, []Fault, []pack.Damage, error) {
	packs, err := OpenOrEmpty(ctx, o.Store, len(all) > 0, o.Log)
	if err != nil {
		return pack.Checked{}, nil, nil, err
	}
	defer packs.Close()
	var damage []pack.Damage
	checked, err := hashAll(ctx, o, packs, func(d pack.Damage) { damage = append(damage, d) })
	if err != nil {
		return checked, nil, nil, err
	}
	slices.SortFunc(damage, func(a, b pack.Damage) int {
		return cmp.Or(cmp.Compare(a.File, b.File), cmp.Compare(a.Offset, b.Offset))
	})
	f := newFaults(damage)
	for _, published := range all {
		for r, a := range repo.Artifacts(published) {
			if err := f.addArtifact(ctx, packs, r, a, repo.Contains(kept, published)); err != nil {
				return checked, f.list, damage, err
			}
		}
	}
	return checked, f.list, damage, nil
}

// hashAll checks every block of a store.
func hashAll(ctx context.Context, o Options, packs Packs, report func(pack.Damage)) (pack.Checked, error) {
	if b, ok := packs.(*bucket.Store); ok {
		return b.Fsck(ctx, report, o.progress())
	}
	return pack.Fsck(ctx, o.Store, report, o.progress())
}

// faults is a list of faults with an index by multihash.
type faults struct {
	list []Fault
	at   map[string]int
}

func newFaults(damage []pack.Damage) *faults {
	f := &faults{make([]Fault, 0, len(damage)), make(map[string]int, len(damage))}
	for _, d := range damage {
		l := Fault{File: d.File, Offset: d.Offset, Cause: d.Err.Error(), Releases: []string{}}
		if d.CID.Defined() {
			l.CID = d.CID.String()
			f.at[string(d.CID.Hash())] = len(f.list)
		}
		f.list = append(f.list, l)
	}
	return f
}

// addArtifact adds an artifact to the faults of its blocks and, of a kept release, adds the
// blocks that are missing.
func (f *faults) addArtifact(ctx context.Context, packs cas.Store, r manifest.Release, a manifest.Artifact, kept bool) error {
	name := fmt.Sprintf("%s/%s %s %s", r.Channel, r.Arch, r.Version, a.Role)
	err := cas.Blocks(ctx, packs, a.CID, func(c cid.Cid) error {
		if _, ok := f.at[string(c.Hash())]; !ok {
			if !kept {
				return nil
			}
			if has, err := packs.Has(ctx, c); has || err != nil {
				return err
			}
			f.addMissing(c)
		}
		f.needs(c, name)
		return nil
	})
	// a node that cannot be read is a fault already; the blocks below it are unknown
	if err != nil && !errors.Is(err, cas.ErrCorrupt) && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if _, ok := f.at[string(a.CID.Hash())]; err != nil && kept && !ok {
		f.addMissing(a.CID)
	}
	f.needs(a.CID, name)
	return nil
}

func (f *faults) addMissing(c cid.Cid) {
	f.at[string(c.Hash())] = len(f.list)
	f.list = append(f.list, Fault{CID: c.String(), Cause: "in no pack", Releases: []string{}})
}

// needs adds an artifact to the fault of a block, where it has one.
func (f *faults) needs(c cid.Cid, artifact string) {
	at, ok := f.at[string(c.Hash())]
	if ok && !slices.Contains(f.list[at].Releases, artifact) {
		f.list[at].Releases = append(f.list[at].Releases, artifact)
	}
}

// repair replaces damaged blocks where they are, and then adds missing ones.
func repair(ctx context.Context, o Options, releases []manifest.Release, damage []pack.Damage) error {
	packs, err := repairDamage(ctx, o, damage)
	if packs == nil {
		return err
	}
	f := filler{packs, o.Peer}
	for _, a := range repo.Artifacts(releases...) {
		err = errors.Join(err, cas.Blocks(ctx, f, a.CID, func(c cid.Cid) error {
			if has, err := packs.Has(ctx, c); has || err != nil {
				return err
			}
			_, err := f.Block(ctx, c)
			return err
		}))
	}
	return errors.Join(err, packs.Close())
}

// repairDamage replaces damaged blocks, and returns the store opened for writing; nil if it could not
// be opened.
func repairDamage(ctx context.Context, o Options, damage []pack.Damage) (Packs, error) {
	if bucket.Is(o.Store) {
		b, err := bucket.Open(ctx, o.Store, bucket.Options{Log: o.Log})
		if err != nil {
			return nil, err
		}
		return b, b.Repair(ctx, damage, o.Peer)
	}
	err := pack.Repair(ctx, o.Store, damage, o.Peer)
	packs, openErr := openFolder(ctx, o.Store, pack.Options{Log: o.Log})
	return packs, errors.Join(err, openErr)
}

// A filler is a Source that reads from a store, and fetches a missing block from a peer
// into the store.
type filler struct {
	packs Packs
	peer  cas.Source
}

func (f filler) Block(ctx context.Context, c cid.Cid) ([]byte, error) {
	data, err := f.packs.Block(ctx, c)
	if !errors.Is(err, fs.ErrNotExist) {
		return data, err
	}
	if data, err = cas.Get(ctx, f.peer, c); err != nil {
		return nil, err
	}
	return data, f.packs.Put(ctx, c, data)
}
