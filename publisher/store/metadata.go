package store

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/internal/atomicfile"
	"github.com/phaseboot/phaseboot/publisher/bucket"
	"github.com/phaseboot/phaseboot/publisher/repo"
)

// The published metadata folder is in the object store too, below repo/, for replicas: its files, and
// below repo/ipns/ the IPNS records by their names.
const (
	metadataFolder = "repo/"
	recordFolder   = metadataFolder + "ipns/"
	timestampFile  = "timestamp.json"

	maxMetadata     = 4096    // objects
	maxMetadataFile = 8 << 20 // bytes
	oldMetadata     = 7 * 24 * time.Hour
	pullTries       = 5
)

// PutMetadata writes the metadata folder of a pointer, and IPNS records that point to it, beside a
// store in an object store. What names other files is written after them. Files that the pointer
// does not name are removed after a week. It does not replace newer metadata; that error wraps
// manifest.ErrRollback.
func PutMetadata(ctx context.Context, name string, p *repo.Pointer, records map[string][]byte) error {
	b, err := dial(name, nil)
	if err != nil {
		return err
	}
	list, err := listMetadata(ctx, b)
	if err != nil {
		return err
	}
	last, err := checkReplaces(ctx, b, list, p)
	if err != nil {
		return err
	}
	needed := map[string]bool{}
	for _, file := range metadataOrder(p.Files) {
		needed[metadataFolder+file] = true
		if err := b.Write(ctx, metadataFolder+file, p.Files[file], "application/json"); err != nil {
			return err
		}
	}
	for id, record := range records {
		if err := b.Write(ctx, recordFolder+id, record, "application/vnd.ipfs.ipns-record"); err != nil {
			return err
		}
	}
	for _, o := range list {
		if !needed[o.Name] && !strings.HasPrefix(o.Name, recordFolder) && last.Sub(o.Modified) > oldMetadata {
			if err := b.Remove(ctx, o.Name); err != nil {
				return err
			}
		}
	}
	return nil
}

// checkReplaces refuses a pointer that is older than the metadata in the object store, as after a restored backup. It
// returns when the timestamp there was written, by the clock of the object store. Two publishers of one repository may
// check in the same moment, and the older timestamp be written last: the daemon of the newer one writes its own again.
func checkReplaces(ctx context.Context, b *bucket.Bucket, list []bucket.Object, p *repo.Pointer) (written time.Time, err error) {
	data, o, err := b.Read(ctx, metadataFolder+timestampFile, maxMetadataFile)
	if errors.Is(err, fs.ErrNotExist) {
		return time.Time{}, nil
	}
	if err != nil {
		return time.Time{}, err
	}
	roots := repo.Files{}
	for _, o := range list {
		roots[strings.TrimPrefix(o.Name, metadataFolder)] = []byte{}
	}
	if err := p.CheckReplaces(data, roots.Root()); err != nil {
		return time.Time{}, fmt.Errorf("store %s: %w, which is below %s there; copy the newer files from there into the repository, and run it again", b, err, metadataFolder)
	}
	return o.Modified, nil
}

// listMetadata lists the objects of the metadata and records.
func listMetadata(ctx context.Context, b *bucket.Bucket) ([]bucket.Object, error) {
	list, err := b.List(ctx, metadataFolder, maxMetadata+1)
	if err == nil && len(list) > maxMetadata {
		err = fmt.Errorf("store %s: more than %d objects below %s (%w); remove those that no publisher wrote", b, maxMetadata, metadataFolder, cas.ErrCorrupt)
	}
	return list, err
}

func dial(name string, log *slog.Logger) (*bucket.Bucket, error) {
	a, err := bucket.ParseAddress(name)
	if err != nil {
		return nil, err
	}
	return bucket.Dial(a, log)
}

// metadataOrder lists files so that a file comes after those that it names: roots, roles, snapshots,
// the timestamp.
func metadataOrder[V any](files map[string]V) []string {
	rank := func(name string) int {
		switch {
		case name == timestampFile:
			return 3
		case strings.HasSuffix(name, ".snapshot.json"):
			return 2
		case strings.HasSuffix(name, ".root.json"):
			return 0
		}
		return 1
	}
	var names []string
	for name := range files {
		names = append(names, name)
	}
	slices.SortFunc(names, func(a, b string) int { return cmp.Or(cmp.Compare(rank(a), rank(b)), cmp.Compare(a, b)) })
	return names
}

// A Replica is a copy of the metadata folder that PutMetadata wrote, in a temporary folder.
type Replica struct {
	Dir     string
	Records map[string][]byte // IPNS records by their names

	bucket *bucket.Bucket
	seen   map[string]string // ETags of the objects
}

// OpenReplica copies the metadata beside a store in an object store. Without any, the error wraps
// fs.ErrNotExist.
func OpenReplica(ctx context.Context, name string, log *slog.Logger) (*Replica, error) {
	if !bucket.Is(name) {
		return nil, fmt.Errorf("store %s: is a folder (%w); a replica reads a store in an object store, named s3://BUCKET/PREFIX", name, fs.ErrInvalid)
	}
	b, err := dial(name, log)
	if err != nil {
		return nil, err
	}
	r := &Replica{bucket: b, Records: map[string][]byte{}, seen: map[string]string{}}
	if r.Dir, err = os.MkdirTemp("", "phase-replica-"); err != nil {
		return nil, fmt.Errorf("replica: %w", err)
	}
	_, err = r.Pull(ctx)
	if err == nil && r.seen[metadataFolder+timestampFile] == "" {
		err = fmt.Errorf("store %s: no metadata beside it: %w; run phase-publish add or serve with this store", b, fs.ErrNotExist)
	}
	if err != nil {
		return nil, errors.Join(err, r.Close())
	}
	return r, nil
}

// Close removes the temporary folder.
func (r *Replica) Close() error { return os.RemoveAll(r.Dir) }

// metadataName matches the names of metadata files, and recordName those of records.
var (
	metadataName = regexp.MustCompile(`^([0-9]{1,16}\.[a-z0-9_-]{1,128}|timestamp)\.json$`)
	recordName   = regexp.MustCompile(`^[a-z0-9]{1,128}$`)
)

// errMoved is the error of objects that changed after they were listed.
var errMoved = errors.New("metadata changed while they were read")

// Pull copies what has changed since the last time, and reports whether anything has. It writes
// nothing before it has read everything. If a publisher writes meanwhile it begins again, because the
// list may lack what a newer timestamp names.
func (r *Replica) Pull(ctx context.Context) (changed bool, err error) {
	for range pullTries {
		if changed, err = r.pull(ctx); !errors.Is(err, errMoved) {
			break
		}
	}
	return changed, err
}

func (r *Replica) pull(ctx context.Context) (bool, error) {
	list, err := listMetadata(ctx, r.bucket)
	if err != nil {
		return false, err
	}
	files, records, seen := map[string][]byte{}, map[string][]byte{}, map[string]string{}
	for _, o := range list {
		file := strings.TrimPrefix(o.Name, metadataFolder)
		record, isRecord := strings.CutPrefix(o.Name, recordFolder)
		if isRecord && !recordName.MatchString(record) || !isRecord && !metadataName.MatchString(file) || r.seen[o.Name] == o.ETag {
			continue
		}
		data, read, err := r.bucket.Read(ctx, o.Name, maxMetadataFile)
		if errors.Is(err, fs.ErrNotExist) || err == nil && read.ETag != o.ETag {
			return false, fmt.Errorf("store %s: %w: %s", r.bucket, errMoved, o.Name)
		}
		if err != nil {
			return false, err
		}
		if seen[o.Name] = read.ETag; isRecord {
			records[record] = data
		} else {
			files[file] = data
		}
	}
	for _, file := range metadataOrder(files) {
		if err := atomicfile.Write(filepath.Join(r.Dir, file), 0o644, files[file]); err != nil {
			return false, fmt.Errorf("replica: %w", err)
		}
	}
	for name, data := range records {
		r.Records[name] = data
	}
	for name, etag := range seen {
		r.seen[name] = etag
	}
	return len(seen) > 0, nil
}
