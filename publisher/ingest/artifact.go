package ingest

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"github.com/ipfs/go-cid"

	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/manifest"
	"github.com/phaseboot/phaseboot/publisher/store"
)

// A Watch reports the progress of reading a file; see cli.Progress.
type Watch func(name string, size int64, r io.Reader) Watched

// A Watched reads a file through, and counts in Known the bytes of those blocks that the
// store had already.
type Watched interface {
	io.ReadCloser
	Known(n int64)
}

// Counts are the blocks that artifacts are made of.
type Counts struct {
	NewBlocks   int64 `json:"new_blocks"`
	NewBytes    int64 `json:"new_bytes"`
	KnownBlocks int64 `json:"known_blocks"` // that the store had already
	KnownBytes  int64 `json:"known_bytes"`
}

func (n *Counts) add(m Counts) {
	n.NewBlocks += m.NewBlocks
	n.NewBytes += m.NewBytes
	n.KnownBlocks += m.KnownBlocks
	n.KnownBytes += m.KnownBytes
}

// put returns a function that writes a block into the store and counts it. It calls known
// with the size of a block that the store had.
func (n *Counts) put(packs store.Packs, known func(int64)) cas.PutFunc {
	return func(ctx context.Context, c cid.Cid, data []byte) error {
		size := int64(len(data))
		isNew, err := packs.PutNew(ctx, c, data)
		switch {
		case err != nil:
			return err
		case isNew:
			n.NewBlocks++
			n.NewBytes += size
		default:
			n.KnownBlocks++
			n.KnownBytes += size
			known(size)
		}
		return nil
	}
}

// ingest chunks a file into the store and compares its length, sha256 and CID with the
// manifest. A difference wraps cas.ErrCorrupt.
func (n *Counts) ingest(ctx context.Context, packs store.Packs, a manifest.Artifact, file string, watch Watch) error {
	f, err := os.Open(file)
	if err != nil {
		return fmt.Errorf("artifact %s: %w", a.Role, err)
	}
	defer f.Close()
	if info, err := f.Stat(); err == nil && info.Size() != a.Length {
		return store.Differs(a, file, "length", fmt.Sprintf("%d bytes", info.Size()), fmt.Sprintf("%d bytes", a.Length))
	}
	var r io.Reader = f
	known := func(int64) {}
	if watch != nil {
		w := watch(a.Role, a.Length, f)
		defer w.Close()
		r, known = w, w.Known
	}
	sum := sha256.New()
	got, err := cas.AddFile(ctx, n.put(packs, known), r, a.Chunker, sum)
	if err != nil {
		return fmt.Errorf("artifact %s: %w", a.Role, err)
	}
	digest := hex.EncodeToString(sum.Sum(nil))
	switch {
	case got.Size != a.Length:
		return store.Differs(a, file, "length", fmt.Sprintf("%d bytes", got.Size), fmt.Sprintf("%d bytes", a.Length))
	case digest != a.SHA256:
		return store.Differs(a, file, "sha256", digest, a.SHA256)
	case !got.CID.Equals(a.CID):
		return store.Differs(a, file, "CID", got.CID.String(), a.CID.String())
	}
	return nil
}

// ingestEarlier checks that the store lists the artifacts of the earlier releases beside a release,
// which were added before. What it lacks, because the store is new, comes from the folder.
func (n *Counts) ingestEarlier(ctx context.Context, packs store.Packs, release manifest.Release, folder candidates, watch Watch) error {
	for _, r := range release.Earlier {
		for _, a := range r.Artifacts {
			err := cas.Blocks(ctx, packs, a.CID, func(c cid.Cid) error { return store.Listed(ctx, packs, c) })
			if errors.Is(err, fs.ErrNotExist) {
				file, findErr := folder.same(ctx, a)
				if findErr != nil {
					return findErr
				}
				if file == "" {
					return fmt.Errorf("earlier release %q, artifact %s: %w; put its file into the folder with the signed files, and name that with --artifacts", r.Version, a.Role, err)
				}
				err = n.ingest(ctx, packs, a, file, watch)
			}
			if err != nil {
				return fmt.Errorf("earlier release %q: %w", r.Version, err)
			}
		}
	}
	return nil
}

// checkStored reads every artifact of a release from the store and compares it with the
// manifest. A release that was published in another channel needs no files.
func checkStored(ctx context.Context, packs cas.Source, release manifest.Release) (n Counts, err error) {
	count := func(cid.Cid) error { n.KnownBlocks++; return nil }
	for _, a := range release.Artifacts {
		if err := store.CopyArtifact(ctx, io.Discard, packs, a); err != nil {
			return n, fmt.Errorf("%w; name the folder with the signed files with --artifacts", err)
		}
		n.KnownBytes += a.Length
		if err := cas.Blocks(ctx, packs, a.CID, count); err != nil {
			return n, fmt.Errorf("artifact %s: %w", a.Role, err)
		}
	}
	return n, nil
}
