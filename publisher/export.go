package publisher

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/phaseboot/phaseboot/internal/p2p"
	"github.com/phaseboot/phaseboot/manifest"
)

// DefaultGrace is how long Export leaves files that no release needs any more: as long
// as a timestamp holds, and so a machine may be under way with them.
const DefaultGrace = DefaultTimestampExpiry

// ExportOptions say what is exported, and where.
type ExportOptions struct {
	Store, Repo string
	Out         string               // folder of the mirror, made when missing
	IPNS        []ed25519.PrivateKey // of the names whose records are written
	Grace       time.Duration        // how long files stay that nothing needs; 0 for not at all
	Verify      bool                 // hash the blocks that are there, and write wrong ones again
	Progress    func(done, total int)
	Log         *slog.Logger     // nil: silent
	Now         func() time.Time // nil: time.Now
}

// Exported says what Export did.
type Exported struct {
	Out       string    `json:"out"`
	Head      string    `json:"head"` // CID of the metadata folder
	Timestamp int64     `json:"timestamp_version"`
	Expires   time.Time `json:"timestamp_expires"`
	Records   []string  `json:"records"` // IPNS names that point to the head
	Releases  []string  `json:"releases"`
	LeftOut   string    `json:"left_out"` // why channels are, "" when none is
	Warning   string    `json:"warning"`  // as Status has it

	WrittenFiles int   `json:"written_files"`
	WrittenBytes int64 `json:"written_bytes"`
	KeptFiles    int   `json:"kept_files"` // that were there, and are needed
	WaitingFiles int   `json:"waiting_files"`
	RemovedFiles int   `json:"removed_files"`

	err error
}

// Err is nil when machines accept every release of the repository. It wraps the reasons of
// manifest. The mirror is written in any case.
func (e Exported) Err() error { return e.err }

// Export writes a repository's releases as files whose paths are the URLs of a trustless
// gateway, for any web server: ipfs/CID (a block), ipns/NAME (the record of the head) and
// metadata/NAME (the TUF repository, for other clients).
//
// It may run while clients read and be killed at any moment: a file has its name only
// when it is whole and on the disk, and what points to others is written after them.
// It writes what is missing, and removes, after the grace, what no release needs; never
// a file that it did not write. Everything is on the disk when it returns nil.
//
// A head that has expired wraps manifest.ErrExpired, one that is older than what the mirror
// has manifest.ErrRollback; nothing is written then. A store that lacks a block of the head is
// cas.ErrCorrupt; metadata and records then stay as they were.
func Export(ctx context.Context, o ExportOptions) (Exported, error) {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Progress == nil {
		o.Progress = func(int, int) {}
	}
	head, err := headToExport(ctx, o)
	if err != nil {
		return Exported{}, err
	}
	store, err := openStore(o.Store, o.Log)
	if err != nil {
		return Exported{}, err
	}
	defer store.Close()
	if err := apart(o.Out, o.Store, o.Repo); err != nil {
		return Exported{}, err
	}
	e := &export{ExportOptions: o, mirror: &mirror{dir: o.Out}, head: head, source: newHeads(store)}
	e.source.add(head.Head)
	if err := e.check(); err != nil {
		return Exported{}, err
	}
	blocks, err := e.blocks(ctx)
	if err != nil {
		return Exported{}, lost(o.Store, err)
	}
	if err := e.mirror.open(); err != nil {
		return Exported{}, err
	}
	defer e.mirror.close()
	return e.run(ctx, blocks)
}

// apart refuses a mirror inside one of our own folders: a web server would give out the
// identity that lies in a store.
func apart(out string, ours ...string) error {
	if info, err := os.Stat(out); err == nil && !info.IsDir() {
		return nil // openMirror refuses it
	}
	at, err := filepath.Abs(out)
	if err != nil {
		return fmt.Errorf("mirror: %w", err)
	}
	for up := filepath.Dir(at); ; at, up = up, filepath.Dir(up) {
		info, err := os.Stat(at)
		for _, dir := range ours {
			if mine, statErr := os.Stat(dir); err == nil && statErr == nil && os.SameFile(info, mine) {
				return fmt.Errorf("mirror %s: is in %s, which is ours alone (%w); name another folder", out, dir, fs.ErrInvalid)
			}
		}
		if up == at {
			return nil
		}
	}
}

// An exportHead is a head that machines accept now.
type exportHead struct {
	*Head
	files   map[string][]byte // of the metadata folder
	leftOut error
	warning string
	root    *manifest.Root // the newest
}

// headToExport verifies the repository as a machine would.
func headToExport(ctx context.Context, o ExportOptions) (*exportHead, error) {
	r, err := openRepo(ctx, o.Repo)
	if err != nil {
		return nil, err
	}
	h := &exportHead{root: r.root}
	if h.Head, err = readHead(ctx, o.Repo); err != nil {
		return nil, err
	}
	if h.files, err = h.read(ctx); err != nil {
		return nil, err
	}
	if p, err := r.published(ctx); err != nil {
		return nil, err
	} else if p != nil && !r.replaced(p) {
		if h.warning, err = r.unpublished(ctx, p); err != nil {
			return nil, err
		}
	}
	h.releases, err = manifest.Channels(ctx, filesFetcher(h.files), r.rootData, o.Now())
	switch {
	case errors.Is(err, manifest.ErrExpired) && len(h.releases) == 0:
		return nil, fmt.Errorf("repository %s: %w; phase-publish serve and add sign again", o.Repo, err)
	case len(h.releases) == 0 && err == nil:
		return nil, noRelease(o.Repo)
	case len(h.releases) == 0:
		return nil, fmt.Errorf("repository %s: %w", o.Repo, err)
	case err != nil:
		h.leftOut = fmt.Errorf("machines refuse a release: %w", err)
	}
	return h, nil
}

// A filesFetcher is a metadata folder in memory: what is judged is what is exported.
type filesFetcher map[string][]byte

// Metadata returns a file of the folder.
func (f filesFetcher) Metadata(_ context.Context, name string, limit int64) ([]byte, error) {
	data, ok := f[name]
	if !ok {
		return nil, fmt.Errorf("%.80q: %w", name, fs.ErrNotExist)
	}
	return data[:min(int64(len(data)), limit)], nil
}

// An export is one run of Export.
type export struct {
	ExportOptions
	mirror *mirror
	head   *exportHead
	source *heads
	out    Exported
}

// run writes blocks first, then metadata, the timestamp last of it, then the records,
// and removes what nothing of this needs.
func (e *export) run(ctx context.Context, blocks []file) (Exported, error) {
	e.out = Exported{
		Out: e.Out, Head: e.head.Folder.String(), Timestamp: e.head.Timestamp, Expires: e.head.Expires.UTC(),
		Records: []string{}, Releases: []string{}, Warning: e.head.warning, err: e.head.leftOut,
	}
	if e.out.err != nil {
		e.out.LeftOut = e.out.err.Error()
	}
	for _, r := range e.head.releases {
		e.out.Releases = append(e.out.Releases, fmt.Sprintf("%s/%s %s", r.Channel, r.Arch, r.Version))
	}
	if err := e.check(); err != nil { // another export may have written meanwhile
		return e.out, err
	}
	records, err := e.records()
	if err != nil {
		return e.out, err
	}
	last := manifest.FileName(roleTimestamp, 0)
	stages := [][]file{blocks, e.metadata(func(name string) bool { return name != last }), e.metadata(func(name string) bool { return name == last }), records}
	missing, err := e.missing(ctx, slices.Concat(stages...))
	if err != nil {
		return e.out, err
	}
	if err := e.write(ctx, stages, missing); err != nil {
		return e.out, err
	}
	e.out.WaitingFiles, e.out.RemovedFiles, err = e.mirror.prune(slices.Concat(stages...), e.Now(), e.Grace)
	return e.out, err
}

// missing returns the paths that must be written, and counts the others.
func (e *export) missing(ctx context.Context, files []file) (map[string]bool, error) {
	have, err := e.mirror.list(dirBlocks)
	if err != nil {
		return nil, err
	}
	missing := map[string]bool{}
	for _, f := range files {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		ok := have[f.path]
		if f.data != nil || ok && e.Verify {
			if ok, err = e.mirror.same(f); err != nil {
				return nil, err
			}
		}
		if !ok {
			missing[f.path] = true
		}
	}
	e.out.KeptFiles = len(files) - len(missing)
	return missing, nil
}

// write installs what is missing, stage after stage.
func (e *export) write(ctx context.Context, stages [][]file, missing map[string]bool) error {
	if err := e.mirror.claim(missing); err != nil {
		return err
	}
	for _, stage := range stages {
		stage = slices.DeleteFunc(slices.Clone(stage), func(f file) bool { return !missing[f.path] })
		for batch := range slices.Chunk(stage, batchFiles) {
			n, err := e.mirror.install(ctx, batch, e.source)
			if gap := (lostBlock{}); errors.As(err, &gap) {
				return lost(e.Store, err)
			}
			if err != nil {
				return err
			}
			e.out.WrittenFiles += len(batch)
			e.out.WrittenBytes += n
			e.Progress(e.out.WrittenFiles, len(missing))
		}
	}
	return nil
}

// records returns the record of each key, the one that is there where it is good for a
// while. Without a key, those that are there must be of this head.
func (e *export) records() ([]file, error) {
	var out []file
	if len(e.IPNS) == 0 {
		return e.recordsThere()
	}
	for _, key := range e.IPNS {
		r, err := newRecords(key, e.head.root.Discovery().IPNS)
		if err != nil {
			return nil, err
		}
		data, err := e.mirror.read(dirRecords + r.name)
		if err != nil || !e.fresh(r.name, data) {
			if err := r.point(e.head.Head, e.Now()); err != nil {
				return nil, err
			}
			data = r.data
		}
		e.out.Records = append(e.out.Records, r.name)
		out = append(out, file{path: dirRecords + r.name, data: data})
	}
	return out, nil
}

func (e *export) recordsThere() (out []file, err error) {
	for path := range e.mirror.ledger {
		name, ok := strings.CutPrefix(path, dirRecords)
		if !ok {
			continue
		}
		data, err := e.mirror.read(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		if !e.points(name, data) {
			return nil, fmt.Errorf("%s: not of the head %s (%w); give its key with --ipns-key, or remove the file", e.mirror.at(path), e.head.Folder, fs.ErrInvalid)
		}
		e.out.Records = append(e.out.Records, name)
		out = append(out, file{path: path, data: data})
	}
	return out, nil
}

// points reports whether a record is of this head, and good.
func (e *export) points(name string, data []byte) bool {
	folder, seq, err := p2p.CheckRecord(name, data)
	return err == nil && folder.Equals(e.head.Folder) && seq == uint64(e.head.Timestamp)
}

// fresh reports whether a record that is there needs no signature yet.
func (e *export) fresh(name string, data []byte) bool {
	end, err := p2p.RecordEnd(data)
	return err == nil && e.points(name, data) && end.Sub(e.Now()) > recordLife-recordRenew
}
