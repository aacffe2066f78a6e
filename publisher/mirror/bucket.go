package mirror

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/theupdateframework/go-tuf/v2/metadata"
	"golang.org/x/sync/errgroup"

	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/manifest"
	"github.com/phaseboot/phaseboot/publisher/bucket"
	"github.com/phaseboot/phaseboot/publisher/store"
)

const (
	bucketLedger    = dirPrivate + "ledger"
	bucketLease     = dirPrivate + bucket.LeaseName
	maxBucketLedger = 256 << 20 // bytes
	parallelPuts    = 16

	removalsPerCheck = 256 // of the lock

	// Blocks and targets never change; the others have to be asked for each time.
	cacheForever = "public, max-age=31536000, immutable"
	cacheNever   = "no-cache"
)

// A bucketExport is one run of Export into an object store.
type bucketExport struct {
	Options
	bucket  *bucket.Bucket
	lock    *bucket.Lock
	content *content
	source  source
	ledger  ledger
	present map[string]bucket.Object
	begun   time.Time // by the clock of the object store
	out     Exported
}

// exportBucket is Export into an object store, where a CDN or the machines read the objects. It keeps the
// rules of a folder: what points to other objects is written after them, and only objects in the ledger
// are removed.
func exportBucket(ctx context.Context, o Options) (out Exported, err error) {
	a, err := bucket.ParseAddress(o.Out)
	if err != nil {
		return out, err
	}
	if o.Verify {
		return out, fmt.Errorf("export to %s: no --verify (%w); the object store keeps checksums of its objects", a, fs.ErrInvalid)
	}
	c, err := readContent(ctx, o)
	if err != nil {
		return out, err
	}
	packs, err := store.Open(ctx, o.Store, o.Log)
	if err != nil {
		return out, err
	}
	defer packs.Close()
	b, err := bucket.Dial(a, o.Log)
	if err != nil {
		return out, err
	}
	e := &bucketExport{Options: o, bucket: b, content: c, source: source{c.Blocks, packs}}
	if err := e.check(ctx); err != nil { // before the lock, which is an object
		return out, err
	}
	private, err := bucket.Dial(a.At(strings.TrimSuffix(dirPrivate, "/")), o.Log)
	if err != nil {
		return out, err
	}
	if e.lock, err = private.Lock(ctx); err != nil {
		return out, err
	}
	err = e.run(ctx)
	return e.out, errors.Join(err, e.lock.Unlock(ctx))
}

func (e *bucketExport) run(ctx context.Context) error {
	e.out = newExported(e.Options, e.content)
	if err := e.check(ctx); err != nil { // another export may have written meanwhile
		return err
	}
	e.begun = e.bucket.Now()
	blocks, err := listBlocks(ctx, e.source, e.content)
	if err != nil {
		return store.MustHave(e.Store, err)
	}
	targets, err := e.targets()
	if err != nil {
		return err
	}
	records, err := e.records(ctx)
	if err != nil {
		return err
	}
	meta := &export{content: e.content}
	files, timestamps := meta.metadata()
	return e.write(ctx, blocks, targets, files, timestamps, records)
}

// check lists the objects. It refuses an address with objects of another repository, or of a newer state
// of this one, and one with objects that no export wrote.
func (e *bucketExport) check(ctx context.Context) error {
	list, err := e.bucket.List(ctx, "", 0)
	if err != nil {
		return err
	}
	e.present = make(map[string]bucket.Object, len(list))
	for _, o := range list {
		e.present[o.Name] = o
	}
	if err := e.readLedger(ctx); err != nil {
		return err
	}
	first := manifest.FileName(metadata.ROOT, 1)
	data, err := e.read(ctx, dirTUF+first)
	if err != nil {
		return err
	}
	if data != nil && !bytes.Equal(data, e.content.Files[first]) {
		return fmt.Errorf("mirror %s: its %s is of another repository (%w); name another prefix", e.bucket, first, fs.ErrInvalid)
	}
	return e.notNewer(ctx)
}

// readLedger reads the ledger. Without one, nothing but a lease of an export may be there.
func (e *bucketExport) readLedger(ctx context.Context) error {
	data, _, err := e.bucket.Read(ctx, bucketLedger, maxBucketLedger)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		for name := range e.present {
			if name != bucketLease {
				return fmt.Errorf("mirror %s: not empty, it contains %.80q, and no export wrote into it (%w); name another prefix", e.bucket, name, fs.ErrInvalid)
			}
		}
		e.ledger = ledger{}
	case err != nil:
		return err
	default:
		if e.ledger, err = parseLedger(bytes.NewReader(data)); err != nil {
			return fmt.Errorf("object %s/%s: %w", e.bucket, bucketLedger, err)
		}
	}
	return nil
}

// notNewer is that of a folder: a newer root, or a newer timestamp that the newest root accepts.
func (e *bucketExport) notNewer(ctx context.Context) error {
	root := e.content.repo.Root.Version()
	next := manifest.FileName(metadata.ROOT, root+1)
	if _, ok := e.present[dirTUF+next]; ok {
		return e.older(fmt.Sprintf("%s, the repository's newest root is %d", next, root))
	}
	data, err := e.read(ctx, dirTUF+manifest.FileName(metadata.TIMESTAMP, 0))
	if data == nil || err != nil {
		return err
	}
	there, err := manifest.Open(data)
	if err != nil || e.content.repo.Root.CheckSigned(manifest.KindTimestamp, data) != nil || there.Version() <= e.content.Timestamp {
		return nil
	}
	return e.older(fmt.Sprintf("timestamp %d, the repository %d", there.Version(), e.content.Timestamp))
}

func (e *bucketExport) older(has string) error {
	return fmt.Errorf("mirror %s: %w: it has %s; export the newer repository", e.bucket, manifest.ErrRollback, has)
}

// read returns an object, nil when it does not exist.
func (e *bucketExport) read(ctx context.Context, name string) ([]byte, error) {
	if _, ok := e.present[name]; !ok {
		return nil, nil
	}
	data, _, err := e.bucket.Read(ctx, name, 8<<20)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return data, err
}

// targets lists the artifacts as whole objects. Equal ones are written twice: there are no links.
func (e *bucketExport) targets() (files []file, err error) {
	if e.NoTargets {
		return nil, nil
	}
	list, err := e.content.Targets(e.content.releases)
	if err != nil {
		return nil, err
	}
	for i, t := range list {
		f := file{path: targetPath(t), target: &list[i]}
		if !exportedPath.MatchString(f.path) {
			return nil, fmt.Errorf("target %.80q: not the path of a file of a mirror (%w)", t.Path, fs.ErrInvalid)
		}
		e.out.Targets++
		e.out.TargetBytes += t.Length
		files = append(files, f)
	}
	return files, nil
}

// records returns the record of each key, or, without a key, those in the mirror. One that is there is kept
// until it must be signed again.
func (e *bucketExport) records(ctx context.Context) (files []file, err error) {
	if len(e.IPNS) == 0 {
		return e.presentRecords(ctx)
	}
	judge := &export{Options: e.Options, content: e.content}
	for _, key := range e.IPNS {
		r, err := e.content.repo.NewRecord(key)
		if err != nil {
			return nil, err
		}
		data, err := e.read(ctx, dirRecords+r.Name)
		if err != nil {
			return nil, err
		}
		if data == nil || !judge.fresh(r.Name, data) {
			if data, err = r.Point(e.content.Pointer, e.Now()); err != nil {
				return nil, err
			}
		}
		e.out.Records = append(e.out.Records, r.Name)
		files = append(files, file{path: dirRecords + r.Name, data: data})
	}
	return files, nil
}

// presentRecords returns the records in the mirror, and refuses one that points to other metadata.
func (e *bucketExport) presentRecords(ctx context.Context) (files []file, err error) {
	judge := &export{Options: e.Options, content: e.content}
	for path := range e.ledger {
		name, ok := strings.CutPrefix(path, dirRecords)
		if !ok {
			continue
		}
		data, err := e.read(ctx, path)
		if err != nil {
			return nil, err
		}
		if data == nil {
			continue
		}
		if !judge.points(name, data) {
			return nil, fmt.Errorf("object %s/%s: does not point to %s (%w); give its key with --ipns-key, or remove the object", e.bucket, path, e.content.Folder, fs.ErrInvalid)
		}
		e.out.Records = append(e.out.Records, name)
		files = append(files, file{path: path, data: data})
	}
	return files, nil
}

// write writes the stages one after another, and removes what no release has needed for the grace. The
// ledger is written first: an object that is not in it would never be removed.
func (e *bucketExport) write(ctx context.Context, stages ...[]file) error {
	needed := slices.Concat(stages...)
	for _, f := range needed {
		e.ledger[f.path] = time.Time{}
	}
	expired := e.age(needed)
	if err := e.writeLedger(ctx); err != nil {
		return err
	}
	for _, stage := range stages {
		if err := e.lock.Check(ctx); err != nil {
			return err
		}
		if err := e.writeStage(ctx, stage, len(needed)); err != nil {
			return err
		}
	}
	if _, err := e.bucket.EndUploads(ctx, dirTargets, e.begun); err != nil { // of an export that was killed
		return err
	}
	for i, path := range expired {
		if i%removalsPerCheck == 0 {
			if err := e.lock.Check(ctx); err != nil {
				return err
			}
		}
		if err := e.bucket.Remove(ctx, path); err != nil {
			return err
		}
		delete(e.ledger, path)
		e.out.RemovedFiles++
	}
	if len(expired) == 0 {
		return nil
	}
	return e.writeLedger(ctx)
}

// age notes since when objects are not needed, and returns those whose grace is over.
func (e *bucketExport) age(needed []file) (expired []string) {
	keep := make(map[string]bool, len(needed))
	for _, f := range needed {
		keep[f.path] = true
	}
	for path, since := range e.ledger {
		if keep[path] {
			continue
		}
		if since.IsZero() {
			since = e.Now()
			e.ledger[path] = since
		}
		if e.Now().Sub(since) >= e.Grace {
			expired = append(expired, path)
		} else {
			e.out.WaitingFiles++
		}
	}
	return expired
}

func (e *bucketExport) writeLedger(ctx context.Context) error {
	if err := e.lock.Check(ctx); err != nil {
		return err
	}
	var b bytes.Buffer
	if err := e.ledger.encode(&b); err != nil {
		return err
	}
	return e.bucket.Write(ctx, bucketLedger, b.Bytes(), "text/plain")
}

// writeStage writes the objects of a stage that are missing, several at once.
func (e *bucketExport) writeStage(ctx context.Context, stage []file, total int) error {
	var files, size, kept atomic.Int64
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(parallelPuts)
	for _, f := range stage {
		if e.has(f) {
			kept.Add(1)
			continue
		}
		if gctx.Err() != nil {
			break
		}
		g.Go(func() error {
			n, err := e.put(gctx, f)
			size.Add(n)
			if done := files.Add(1); err == nil {
				e.Progress(e.out.WrittenFiles+int(done), total)
			}
			return err
		})
	}
	err := g.Wait()
	e.out.WrittenFiles += int(files.Load())
	e.out.WrittenBytes += size.Load()
	e.out.KeptFiles += int(kept.Load())
	return cmp.Or(err, ctx.Err())
}

// has reports whether the object of a file is there. Objects are stored whole or not at all, and the names of
// blocks, targets and numbered metadata stand for their content; the timestamp and records are written again.
func (e *bucketExport) has(f file) bool {
	o, ok := e.present[f.path]
	switch {
	case !ok:
		return false
	case f.data != nil:
		changes := strings.HasPrefix(f.path, dirRecords) || strings.HasSuffix(f.path, "/"+manifest.FileName(metadata.TIMESTAMP, 0))
		return !changes && o.Size == int64(len(f.data))
	case f.target != nil:
		return o.Size == f.target.Length
	}
	return true
}

// put writes the object of a file.
func (e *bucketExport) put(ctx context.Context, f file) (int64, error) {
	switch {
	case f.target != nil:
		return f.target.Length, e.bucket.WriteFile(ctx, f.path, f.target.Length, bucket.ObjectOptions{Cache: cacheForever}, func(ctx context.Context) io.Reader {
			return cas.NewReader(ctx, e.source, f.target.CID, f.target.Length)
		})
	case f.data != nil:
		return int64(len(f.data)), e.bucket.WriteCached(ctx, f.path, f.data, bucket.ObjectOptions{Cache: cacheNever})
	}
	data, err := cas.Get(ctx, e.source, f.block)
	if err != nil {
		return 0, store.MustHave(e.Store, err)
	}
	return int64(len(data)), e.bucket.WriteCached(ctx, f.path, data, bucket.ObjectOptions{Cache: cacheForever, Type: "application/vnd.ipld.raw"})
}
