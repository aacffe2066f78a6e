package mirror

import (
	"cmp"
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

	"github.com/ipfs/go-cid"

	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/internal/p2p"
	"github.com/phaseboot/phaseboot/manifest"
	"github.com/phaseboot/phaseboot/publisher/bucket"
	"github.com/phaseboot/phaseboot/publisher/repo"
	"github.com/phaseboot/phaseboot/publisher/store"
)

// DefaultGrace is how long Export keeps files that no release needs any more: a machine may
// fetch them for as long as the timestamp that named them is valid.
const DefaultGrace = repo.DefaultTimestampExpiry

// Options name what is exported, and the folder of the mirror.
type Options struct {
	Store, Repo string
	Out         string               // folder of the mirror, made when missing, or an address s3://BUCKET/PREFIX
	IPNS        []ed25519.PrivateKey // keys of the names whose records are written
	Grace       time.Duration        // how long files are kept that no release needs; 0 removes them at once
	Verify      bool                 // hash the blocks and targets that are there, and replace wrong ones
	NoTargets   bool                 // write no artifacts as whole files, which other TUF clients download
	Progress    func(done, total int)
	Log         *slog.Logger     // nil: silent
	Now         func() time.Time // nil: time.Now
}

// Exported is what Export did.
type Exported struct {
	Out       string    `json:"out"`
	Pointer   string    `json:"head"` // CID of the metadata folder
	Timestamp int64     `json:"timestamp_version"`
	Expires   time.Time `json:"timestamp_expires"`
	Records   []string  `json:"records"` // IPNS names that point to the metadata folder
	Releases  []string  `json:"releases"`
	LeftOut   string    `json:"left_out"` // why channels are left out, "" when none is
	Warning   string    `json:"warning"`  // targets that are not published, as in Status; "" when there are none

	Targets     int   `json:"targets"`      // artifacts that are whole files too
	TargetBytes int64 `json:"target_bytes"` // on the disk: equal ones are hard links

	WrittenFiles int   `json:"written_files"`
	WrittenBytes int64 `json:"written_bytes"`
	KeptFiles    int   `json:"kept_files"`    // that were there, and are needed
	WaitingFiles int   `json:"waiting_files"` // that no release needs, within the grace
	RemovedFiles int   `json:"removed_files"`

	err error
}

// Err is nil when machines accept every release of the repository. It wraps the errors of
// manifest. The mirror is written in any case.
func (e Exported) Err() error { return e.err }

// Export writes a repository's releases as files whose paths are the URLs of a trustless
// gateway, for any web server: ipfs/CID (a block), ipns/NAME (the IPNS record), and for other
// TUF clients tuf/metadata/NAME and tuf/targets/DIR/SHA256.NAME (an artifact as a whole file).
//
// It may run while clients read, and be killed at any moment: a file gets its name only
// when it is complete and on the disk, and what points to other files is written after them.
// It writes missing files, and removes after the grace those that no release needs; it never
// removes a file that it did not write. Everything is on the disk when it returns nil.
//
// An expired repository wraps manifest.ErrExpired, one that is older than the mirror
// manifest.ErrRollback; nothing is written then. A store that lacks a block is
// cas.ErrCorrupt; metadata and records then stay as they were.
func Export(ctx context.Context, o Options) (Exported, error) {
	if o.Now == nil {
		o.Now = time.Now
	}
	o.Log = cmp.Or(o.Log, slog.New(slog.DiscardHandler))
	if o.Progress == nil {
		o.Progress = func(int, int) {}
	}
	if bucket.Is(o.Out) {
		return exportBucket(ctx, o)
	}
	c, err := readContent(ctx, o)
	if err != nil {
		return Exported{}, err
	}
	packs, err := store.Open(ctx, o.Store, o.Log)
	if err != nil {
		return Exported{}, err
	}
	defer packs.Close()
	if err := outside(o.Out, o.Store, o.Repo); err != nil {
		return Exported{}, err
	}
	e := &export{Options: o, mirror: &mirror{dir: o.Out}, content: c, source: source{c.Blocks, packs}}
	if err := e.check(); err != nil {
		return Exported{}, err
	}
	blocks, err := listBlocks(ctx, e.source, c)
	if err != nil {
		return Exported{}, store.MustHave(o.Store, err)
	}
	if err := e.mirror.open(); err != nil {
		return Exported{}, err
	}
	defer e.mirror.close()
	return e.run(ctx, blocks)
}

// outside refuses a mirror inside the store or the repository: a web server would serve
// the identity key in the store.
func outside(out string, private ...string) error {
	if info, err := os.Stat(out); err == nil && !info.IsDir() {
		return nil // checkDirs refuses it
	}
	at, err := filepath.Abs(out)
	if err != nil {
		return fmt.Errorf("mirror: %w", err)
	}
	for up := filepath.Dir(at); ; at, up = up, filepath.Dir(up) {
		info, err := os.Stat(at)
		for _, dir := range private {
			if other, statErr := os.Stat(dir); err == nil && statErr == nil && os.SameFile(info, other) {
				return fmt.Errorf("mirror %s: is in %s, which must not be served (%w); name another folder", out, dir, fs.ErrInvalid)
			}
		}
		if up == at {
			return nil
		}
	}
}

// content is what machines accept of a repository now.
type content struct {
	*repo.Pointer
	repo     *repo.Repo
	releases []manifest.Release
	leftOut  error
	warning  string
}

// readContent verifies the repository as a machine would.
func readContent(ctx context.Context, o Options) (*content, error) {
	r, err := repo.Open(ctx, o.Repo)
	if err != nil {
		return nil, err
	}
	c := &content{repo: r}
	if c.Pointer, err = r.ReadPointer(ctx); err != nil {
		return nil, err
	}
	if c.warning, err = r.UnpublishedTargets(ctx, c.Published); err != nil {
		return nil, err
	}
	c.releases, err = manifest.Channels(ctx, c.Files, r.RootData, o.Now())
	switch {
	case errors.Is(err, manifest.ErrExpired) && len(c.releases) == 0:
		return nil, fmt.Errorf("repository %s: %w; phase-publish serve and add sign again", o.Repo, err)
	case len(c.releases) == 0 && err == nil:
		return nil, r.NoRelease()
	case len(c.releases) == 0:
		return nil, fmt.Errorf("repository %s: %w", o.Repo, err)
	case err != nil:
		c.leftOut = fmt.Errorf("machines refuse a release: %w", err)
	}
	return c, nil
}

// A source reads the blocks of the metadata folder from memory, all others from the store.
type source struct {
	folder *cas.Memory
	packs  store.Packs
}

func (s source) Block(ctx context.Context, c cid.Cid) ([]byte, error) {
	if data, err := s.folder.Block(ctx, c); err == nil {
		return data, nil
	}
	return s.packs.Block(ctx, c)
}

// An export is one run of Export.
type export struct {
	Options
	mirror  *mirror
	content *content
	source  source
	out     Exported
}

// run writes blocks and targets, then the metadata with the timestamp last, then the records, and
// removes files that are not needed any more.
func (e *export) run(ctx context.Context, blocks []file) (Exported, error) {
	e.out = newExported(e.Options, e.content)
	if err := e.check(); err != nil { // another export may have written meanwhile
		return e.out, err
	}
	records, err := e.records()
	if err != nil {
		return e.out, err
	}
	targets, twins, err := e.targets()
	if err != nil {
		return e.out, err
	}
	metadata, timestamps := e.metadata()
	stages := [][]file{blocks, targets, twins, metadata, timestamps, records}
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

// newExported describes what is exported.
func newExported(o Options, c *content) Exported {
	out := Exported{
		Out: o.Out, Pointer: c.Folder.String(), Timestamp: c.Timestamp, Expires: c.Expires.UTC(),
		Records: []string{}, Releases: []string{}, Warning: c.warning, err: c.leftOut,
	}
	if out.err != nil {
		out.LeftOut = out.err.Error()
	}
	for _, r := range c.releases {
		out.Releases = append(out.Releases, fmt.Sprintf("%s/%s %s", r.Channel, r.Arch, r.Version))
	}
	return out
}

// missing returns the paths that must be written, and counts the other files as kept.
func (e *export) missing(ctx context.Context, files []file) (map[string]bool, error) {
	entries, err := os.ReadDir(e.mirror.at(dirBlocks))
	if err != nil {
		return nil, fmt.Errorf("mirror: %w", err)
	}
	present := make(map[string]bool, len(entries))
	for _, entry := range entries {
		present[dirBlocks+entry.Name()] = true
	}
	missing := map[string]bool{}
	for _, f := range files {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		ok := present[f.path]
		switch {
		case f.target != nil:
			ok, err = e.mirror.sameTarget(ctx, f, e.Verify)
		case f.data != nil, ok && e.Verify:
			ok, err = e.mirror.same(f)
		}
		if err != nil {
			return nil, err
		}
		if !ok {
			missing[f.path] = true
		}
	}
	e.out.KeptFiles = len(files) - len(missing)
	return missing, nil
}

// write installs the missing files, stage after stage.
func (e *export) write(ctx context.Context, stages [][]file, missing map[string]bool) error {
	if err := e.mirror.claim(missing); err != nil {
		return err
	}
	for _, stage := range stages {
		stage = slices.DeleteFunc(slices.Clone(stage), func(f file) bool { return !missing[f.path] })
		for batch := range slices.Chunk(stage, batchFiles) {
			n, err := e.mirror.install(ctx, batch, e.source)
			if unread := (unreadBlock{}); errors.As(err, &unread) {
				return store.MustHave(e.Store, err)
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

// records returns the record of each key; the record in the mirror is kept until it must be
// signed again. Without keys, the records in the mirror must point to this metadata folder.
func (e *export) records() ([]file, error) {
	var out []file
	if len(e.IPNS) == 0 {
		return e.presentRecords()
	}
	for _, key := range e.IPNS {
		r, err := e.content.repo.NewRecord(key)
		if err != nil {
			return nil, err
		}
		data, err := e.mirror.read(dirRecords + r.Name)
		if err != nil || !e.fresh(r.Name, data) {
			if data, err = r.Point(e.content.Pointer, e.Now()); err != nil {
				return nil, err
			}
		}
		e.out.Records = append(e.out.Records, r.Name)
		out = append(out, file{path: dirRecords + r.Name, data: data})
	}
	return out, nil
}

// presentRecords returns the records in the mirror.
func (e *export) presentRecords() (out []file, err error) {
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
			return nil, fmt.Errorf("%s: does not point to %s (%w); give its key with --ipns-key, or remove the file", e.mirror.at(path), e.content.Folder, fs.ErrInvalid)
		}
		e.out.Records = append(e.out.Records, name)
		out = append(out, file{path: path, data: data})
	}
	return out, nil
}

// points reports whether a record is valid and points to this metadata folder.
func (e *export) points(name string, data []byte) bool {
	folder, seq, err := p2p.CheckRecord(name, data)
	return err == nil && folder.Equals(e.content.Folder) && seq == uint64(e.content.Timestamp)
}

// fresh reports whether a record points to this folder and need not be signed again yet.
func (e *export) fresh(name string, data []byte) bool {
	end, err := p2p.RecordEnd(data)
	return err == nil && e.points(name, data) && end.Sub(e.Now()) > repo.RecordLife-repo.RecordRenew
}
