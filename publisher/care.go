package publisher

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/ipfs/go-cid"
	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/manifest"
)

// CareOptions name a store, the repository whose releases it holds, and what care it gets.
type CareOptions struct {
	Store string
	Repo  string
	Peer  cas.Source   // Fsck: where lost blocks come from; nil: only look
	Keep  int          // releases of each channel and architecture, the newest, that stay (Collect, ReadStoreStats: at least 1) or must be whole (Fsck: 0 is all)
	Pins  []cid.Cid    // Collect, ReadStoreStats: files that stay beside them
	Dry   bool         // Collect: only say what would be removed
	Log   *slog.Logger // nil: silent

	Progress func(done, total int64) // Fsck, Collect: bytes of all packs that were looked at; nil: nobody asks
}

// progress is Progress, never nil.
func (o CareOptions) progress() func(done, total int64) {
	if o.Progress == nil {
		return func(int64, int64) {}
	}
	return o.Progress
}

// KeepReleases is how many releases of each channel and architecture stay where nobody says
// another number: Keep of Collect, and of Fsck after it.
const KeepReleases = 3

// A Lost block, or a damaged file of the store.
type Lost struct {
	CID      string   `json:"cid"`  // "" when a file of the store is at fault
	File     string   `json:"file"` // "" when no pack has the block
	Offset   int64    `json:"offset"`
	Cause    string   `json:"cause"`
	Releases []string `json:"releases"` // whose artifacts need it
}

// Checked is what Fsck found.
type Checked struct {
	cas.Checked
	Releases int    `json:"releases"`
	Found    []Lost `json:"found"`
	Left     []Lost `json:"left"` // what was not mended
}

// Fsck hashes every block of the store and looks whether the newest releases of the
// repository, as Keep says, are whole: Collect may have taken older ones. With a Peer it
// mends what it found, which needs the store for itself, and looks again. What is left is an error that wraps cas.ErrCorrupt.
func Fsck(ctx context.Context, o CareOptions) (Checked, error) {
	if o.Keep < 0 {
		return Checked{}, fmt.Errorf("keep %d: %w; name a number of releases, or 0 for all", o.Keep, fs.ErrInvalid)
	}
	all, err := keptReleases(ctx, o.Repo, 0)
	if err != nil {
		return Checked{}, err
	}
	kept := newest(slices.Clone(all), o.Keep)
	out := Checked{Releases: len(kept)}
	var damage []cas.Damage
	if out.Checked, out.Found, damage, err = look(ctx, o, all, kept); err != nil {
		return out, err
	}
	out.Left = out.Found
	if o.Peer != nil && len(out.Found) > 0 {
		mendErr := mend(ctx, o, kept, damage)
		if _, out.Left, _, err = look(ctx, o, all, kept); err != nil {
			return out, errors.Join(mendErr, err)
		}
		if len(out.Left) > 0 {
			return out, errors.Join(leftOver(o.Store, out.Left), mendErr)
		}
	}
	return out, leftOver(o.Store, out.Left)
}

func leftOver(store string, left []Lost) error {
	if len(left) == 0 {
		return nil
	}
	gone := ""
	if slices.ContainsFunc(left, func(l Lost) bool { return l.File == "" }) {
		gone = "if an earlier gc took blocks, name its --keep here; "
	}
	return fmt.Errorf("store %s: faults left: %d: %w; %smend them with phase-publish fsck --repair URL, or add the releases to an empty folder, which makes a new store", store, len(left), cas.ErrCorrupt, gone)
}

// look reads the store once. Damage is told of with all releases that it hurts, a missing
// block with those that are kept.
func look(ctx context.Context, o CareOptions, all, kept []manifest.Release) (cas.Checked, []Lost, []cas.Damage, error) {
	store, err := openOrEmpty(o.Store, len(all) > 0, o.Log)
	if err != nil {
		return cas.Checked{}, nil, nil, err
	}
	defer store.Close()
	var damage []cas.Damage
	checked, err := cas.FsckProgress(ctx, o.Store, func(d cas.Damage) { damage = append(damage, d) }, o.progress())
	if err != nil {
		return checked, nil, nil, err
	}
	slices.SortFunc(damage, func(a, b cas.Damage) int {
		return cmp.Or(cmp.Compare(a.File, b.File), cmp.Compare(a.Offset, b.Offset))
	})
	lost := make([]Lost, 0, len(damage))
	known := make(map[string]int, len(damage)) // multihash to index in lost
	for _, d := range damage {
		l := Lost{File: d.File, Offset: d.Offset, Cause: d.Err.Error(), Releases: []string{}}
		if d.CID.Defined() {
			l.CID = d.CID.String()
			known[string(d.CID.Hash())] = len(lost)
		}
		lost = append(lost, l)
	}
	for _, r := range all {
		must := slices.ContainsFunc(kept, sameAs(r))
		for _, a := range r.Artifacts {
			name := fmt.Sprintf("%s/%s %s %s", r.Channel, r.Arch, r.Version, a.Role)
			err := cas.Blocks(ctx, store, a.CID, func(c cid.Cid) error {
				at, ok := known[string(c.Hash())]
				if !ok && !must {
					return nil
				}
				if !ok {
					has, err := store.Has(ctx, c)
					if has || err != nil {
						return err
					}
					at = len(lost)
					known[string(c.Hash())] = at
					lost = append(lost, Lost{CID: c.String(), Cause: "in no pack", Releases: []string{}})
				}
				if l := &lost[at]; !slices.Contains(l.Releases, name) {
					l.Releases = append(l.Releases, name)
				}
				return nil
			})
			// a node that cannot be read was counted above, what is below it is unknown
			if err != nil && !errors.Is(err, cas.ErrCorrupt) && !errors.Is(err, fs.ErrNotExist) {
				return checked, lost, damage, err
			}
			if at, ok := known[string(a.CID.Hash())]; err != nil && !ok && must {
				known[string(a.CID.Hash())] = len(lost)
				lost = append(lost, Lost{CID: a.CID.String(), Cause: "in no pack", Releases: []string{name}})
			} else if ok && !slices.Contains(lost[at].Releases, name) {
				lost[at].Releases = append(lost[at].Releases, name)
			}
		}
	}
	return checked, lost, damage, nil
}

// mend writes damaged blocks again where they are, and then adds those that are missing.
func mend(ctx context.Context, o CareOptions, releases []manifest.Release, damage []cas.Damage) error {
	err := cas.Repair(ctx, o.Store, damage, o.Peer)
	store, openErr := cas.OpenPacks(o.Store, cas.PackOptions{Log: o.Log})
	if openErr != nil {
		return errors.Join(err, openErr)
	}
	m := mender{store, o.Peer}
	for _, r := range releases {
		for _, a := range r.Artifacts {
			err = errors.Join(err, cas.Blocks(ctx, m, a.CID, func(c cid.Cid) error {
				if has, err := store.Has(ctx, c); has || err != nil {
					return err
				}
				_, err := m.Block(ctx, c)
				return err
			}))
		}
	}
	return errors.Join(err, store.Close())
}

// A mender is a store that fills its gaps from a peer.
type mender struct {
	store *cas.Packs
	peer  cas.Source
}

func (m mender) Block(ctx context.Context, c cid.Cid) ([]byte, error) {
	data, err := m.store.Block(ctx, c)
	if !errors.Is(err, fs.ErrNotExist) {
		return data, err
	}
	if data, err = cas.Get(ctx, m.peer, c); err != nil {
		return nil, err
	}
	return data, m.store.Put(ctx, c, data)
}

// Collect removes the blocks that no kept release and no pin needs. Nothing is removed
// unless every kept release is whole (an error that wraps cas.ErrCorrupt says which is not),
// and for a repository without a release, which wraps fs.ErrNotExist. A daemon may serve the
// store meanwhile.
func Collect(ctx context.Context, o CareOptions) (cas.Collected, error) {
	if o.Keep < 1 {
		return cas.Collected{}, fmt.Errorf("keep %d: %w; at least the newest release of each channel stays", o.Keep, fs.ErrInvalid)
	}
	if err := checkStore(o.Store); err != nil {
		return cas.Collected{}, err
	}
	store, err := cas.OpenPacks(o.Store, cas.PackOptions{Log: o.Log, ReadOnly: o.Dry})
	if err != nil {
		return cas.Collected{}, err
	}
	done, err := collect(ctx, store, o)
	return done, errors.Join(err, store.Close())
}

// collect looks for releases while it has the store: Add has it until its release is
// in the repository.
func collect(ctx context.Context, store *cas.Packs, o CareOptions) (cas.Collected, error) {
	releases, err := keptReleases(ctx, o.Repo, o.Keep)
	if err != nil {
		return cas.Collected{}, err
	}
	if len(releases) == 0 {
		return cas.Collected{}, fmt.Errorf("repository %s: it names no release, so nothing was removed: %w; name the repository whose releases the store holds", o.Repo, fs.ErrNotExist)
	}
	wanted, err := mark(ctx, store, o.roots(releases))
	if err != nil {
		return cas.Collected{}, lost(o.Store, err)
	}
	if o.Dry {
		return store.WouldCollect(ctx, wanted.has)
	}
	return store.CollectProgress(ctx, wanted.has, o.progress())
}

// roots are the files that stay: those of releases, and pins.
func (o CareOptions) roots(releases []manifest.Release) []cid.Cid {
	roots := slices.Clone(o.Pins)
	for _, r := range releases {
		for _, a := range r.Artifacts {
			roots = append(roots, a.CID)
		}
	}
	return roots
}

// marked are the blocks that stay.
type marked map[cid.Cid]struct{}

func (m marked) has(c cid.Cid) bool { _, ok := m[c]; return ok }

// mark returns the blocks below roots, all of which must be in the store.
func mark(ctx context.Context, store *cas.Packs, roots []cid.Cid) (marked, error) {
	wanted := make(marked)
	for _, root := range roots {
		err := cas.Blocks(ctx, store, root, func(c cid.Cid) error {
			if _, seen := wanted[c]; seen {
				return nil
			}
			if has, err := store.Has(ctx, c); err != nil {
				return err
			} else if !has {
				return cas.NotFound(c)
			}
			wanted[c] = struct{}{}
			return nil
		})
		if err != nil {
			return nil, fmt.Errorf("file %s is not whole, nothing was removed; if an earlier gc took it, keep fewer with --keep: %w", root, err)
		}
	}
	return wanted, nil
}

// StoreStats say what the store holds for which release. Bytes are those that
// sections take in packs.
type StoreStats struct {
	cas.Stats
	Keep     int            `json:"keep"`         // newest releases of each channel and architecture that gc keeps
	Wasted   int64          `json:"wasted_bytes"` // none of them needs these; gc with the same number removes most
	Releases []ReleaseStats `json:"releases"`
}

// ReleaseStats are one release's share of a store.
type ReleaseStats struct {
	Channel string `json:"channel"`
	Arch    string `json:"arch"`
	Release string `json:"release"`
	Version int64  `json:"role_version"`
	Blocks  int64  `json:"blocks"`
	Bytes   int64  `json:"bytes"`
	Shared  int64  `json:"shared_bytes"` // with other releases
	Whole   bool   `json:"whole"`        // false for one that Collect took, or that lost blocks
	Kept    bool   `json:"kept"`         // false for one whose own blocks gc removes
}

// ReadStoreStats counts what each release of the repository has in the store, and what
// Collect would remove with the same Keep and Pins.
func ReadStoreStats(ctx context.Context, o CareOptions) (StoreStats, error) {
	if o.Keep < 1 {
		return StoreStats{}, fmt.Errorf("keep %d: %w; at least the newest release of each channel stays", o.Keep, fs.ErrInvalid)
	}
	releases, err := keptReleases(ctx, o.Repo, 0)
	if err != nil {
		return StoreStats{}, err
	}
	store, err := openOrEmpty(o.Store, len(releases) > 0, o.Log)
	if err != nil {
		return StoreStats{}, err
	}
	defer store.Close()
	s := StoreStats{Keep: o.Keep, Releases: []ReleaseStats{}}
	if s.Stats, err = store.Stats(ctx); err != nil {
		return s, err
	}
	kept := newest(slices.Clone(releases), o.Keep)
	wanted, needs := make(marked), make([]marked, len(releases))
	users := make(map[cid.Cid]int)
	for _, pin := range o.Pins {
		if _, err := below(ctx, store, pin, wanted); err != nil {
			return s, err
		}
	}
	for i, r := range releases {
		needs[i] = make(marked)
		stats := ReleaseStats{Channel: r.Channel, Arch: r.Arch, Release: r.Version, Version: r.Number, Whole: true, Kept: slices.ContainsFunc(kept, sameAs(r))}
		for _, a := range r.Artifacts {
			whole, err := below(ctx, store, a.CID, needs[i])
			if err != nil {
				return s, err
			}
			stats.Whole = stats.Whole && whole
		}
		for c := range needs[i] {
			users[c]++
			if stats.Kept {
				wanted[c] = struct{}{}
			}
		}
		s.Releases = append(s.Releases, stats)
	}
	return s, s.count(ctx, store, needs, users, wanted)
}

// below adds the blocks below root to set, root among them, and reports whether all nodes
// are there.
func below(ctx context.Context, store *cas.Packs, root cid.Cid, set marked) (bool, error) {
	err := cas.Blocks(ctx, store, root, func(c cid.Cid) error { set[c] = struct{}{}; return nil })
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}

// count looks at every block of the store once.
func (s *StoreStats) count(ctx context.Context, store *cas.Packs, needs []marked, users map[cid.Cid]int, wanted marked) error {
	var used int64
	seen := make(marked)
	err := store.Each(ctx, func(c cid.Cid, bytes int64) error {
		if wanted.has(c) { // a second copy in another pack is needed by gc's rule too
			used += bytes
		}
		if seen.has(c) {
			return nil
		}
		seen[c] = struct{}{}
		for i, need := range needs {
			if !need.has(c) {
				continue
			}
			s.Releases[i].Blocks++
			s.Releases[i].Bytes += bytes
			if users[c] > 1 {
				s.Releases[i].Shared += bytes
			}
		}
		return nil
	})
	for i, need := range needs {
		s.Releases[i].Whole = s.Releases[i].Whole && s.Releases[i].Blocks == int64(len(need))
	}
	s.Wasted = s.Bytes - s.Packs*int64(cas.PackOverhead) - used
	return err
}

var roleFile = regexp.MustCompile(`^([1-9][0-9]{0,15})\.([a-z0-9_-]+)-([a-z0-9_]+)\.json$`)

// keptReleases decodes the release manifests in a repository's folder: the newest last of
// each channel and architecture, all for 0. They were judged when they were added.
func keptReleases(ctx context.Context, dir string, last int) ([]manifest.Release, error) {
	r, err := openRepo(ctx, dir)
	if err != nil {
		return nil, err
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("repository: %w", err)
	}
	var releases []manifest.Release
	for _, e := range entries {
		name := roleFile.FindStringSubmatch(e.Name())
		if name == nil {
			continue
		}
		data, err := r.read(ctx, e.Name(), manifest.KindRole)
		if err != nil {
			return nil, err
		}
		role, err := manifest.Parse[metadata.TargetsType](manifest.KindRole, data)
		if err != nil {
			return nil, fmt.Errorf("repository %s: %s: %w", dir, e.Name(), err)
		}
		release, err := manifest.Decode(role, name[2], name[3])
		if err != nil {
			return nil, fmt.Errorf("repository %s: %s: %w", dir, e.Name(), err)
		}
		if n, err := strconv.ParseInt(name[1], 10, 64); err != nil || n != release.Number {
			return nil, fmt.Errorf("repository %s: %s: says version %d: %w", dir, e.Name(), release.Number, cas.ErrCorrupt)
		}
		releases = append(releases, release)
	}
	slices.SortFunc(releases, func(a, b manifest.Release) int {
		return cmp.Or(strings.Compare(a.Channel, b.Channel), strings.Compare(a.Arch, b.Arch), cmp.Compare(b.Number, a.Number))
	})
	return newest(releases, last), nil
}

// sameAs tells whether another is the same version of the same channel.
func sameAs(r manifest.Release) func(manifest.Release) bool {
	return func(k manifest.Release) bool {
		return k.Channel == r.Channel && k.Arch == r.Arch && k.Number == r.Number
	}
}

// newest keeps the first n releases of each channel and architecture, all for 0.
func newest(releases []manifest.Release, n int) []manifest.Release {
	if n == 0 {
		return releases
	}
	count := make(map[string]int)
	return slices.DeleteFunc(releases, func(r manifest.Release) bool {
		count[r.Channel+"/"+r.Arch]++
		return count[r.Channel+"/"+r.Arch] > n
	})
}
