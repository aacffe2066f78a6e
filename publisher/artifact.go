package publisher

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"

	"github.com/ipfs/go-cid"

	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/manifest"
)

// A Watch lets someone follow how a file is read; see cli.Progress.
type Watch func(name string, size int64, r io.Reader) Watched

// A Watched is a file that is read through, and is told how many bytes of it, in blocks,
// the store had already.
type Watched interface {
	io.ReadCloser
	Known(n int64)
}

// An Ingest counts what went into the store.
type Ingest struct {
	NewBlocks   int64 `json:"new_blocks"`
	NewBytes    int64 `json:"new_bytes"`
	KnownBlocks int64 `json:"known_blocks"`
	KnownBytes  int64 `json:"known_bytes"`
}

func (n *Ingest) add(m Ingest) {
	n.NewBlocks += m.NewBlocks
	n.NewBytes += m.NewBytes
	n.KnownBlocks += m.KnownBlocks
	n.KnownBytes += m.KnownBytes
}

// put keeps a block and counts it; known is told of one that was there.
func (n *Ingest) put(store cas.Store, known func(int64)) func(context.Context, cid.Cid, []byte) error {
	return func(ctx context.Context, c cid.Cid, data []byte) error {
		has, err := store.Has(ctx, c)
		if err != nil {
			return err
		}
		if has {
			n.KnownBlocks++
			n.KnownBytes += int64(len(data))
			known(int64(len(data)))
			return nil
		}
		n.NewBlocks++
		n.NewBytes += int64(len(data))
		return store.Put(ctx, c, data)
	}
}

// ingest chunks a file into the store and compares what it turned out to be with what
// was signed. A difference wraps cas.ErrCorrupt.
func (n *Ingest) ingest(ctx context.Context, store cas.Store, a manifest.Artifact, file string, watch Watch) error {
	f, err := os.Open(file)
	if err != nil {
		return fmt.Errorf("artifact %s: %w", a.Role, err)
	}
	defer f.Close()
	if info, err := f.Stat(); err == nil && info.Size() != a.Length {
		return differs(a, file, "length", fmt.Sprintf("%d bytes", info.Size()), fmt.Sprintf("%d bytes", a.Length))
	}
	var r io.Reader = f
	known := func(int64) {}
	if watch != nil {
		w := watch(a.Role, a.Length, f)
		defer w.Close()
		r, known = w, w.Known
	}
	sum := sha256.New()
	got, err := cas.AddFile(ctx, n.put(store, known), io.TeeReader(r, sum), a.Chunker)
	if err != nil {
		return fmt.Errorf("artifact %s: %w", a.Role, err)
	}
	digest := hex.EncodeToString(sum.Sum(nil))
	switch {
	case got.Size != a.Length:
		return differs(a, file, "length", fmt.Sprintf("%d bytes", got.Size), fmt.Sprintf("%d bytes", a.Length))
	case digest != a.SHA256:
		return differs(a, file, "sha256", digest, a.SHA256)
	case !got.CID.Equals(a.CID):
		return differs(a, file, "CID", got.CID.String(), a.CID.String())
	}
	return nil
}

// allStored reads every artifact of a release from the store and compares it with what
// was signed: one that another channel has published needs no files.
func allStored(ctx context.Context, store cas.Source, release manifest.Release) (n Ingest, err error) {
	count := func(cid.Cid) error { n.KnownBlocks++; return nil }
	for _, a := range release.Artifacts {
		sum := sha256.New()
		if err := cas.Copy(ctx, sum, store, a.CID, a.Length); err != nil {
			return n, fmt.Errorf("artifact %s: the store does not have it whole: %w; name the folder with the signed files with --artifacts", a.Role, err)
		}
		if digest := hex.EncodeToString(sum.Sum(nil)); digest != a.SHA256 {
			return n, differs(a, "the store's", "sha256", digest, a.SHA256)
		}
		n.KnownBytes += a.Length
		if err := cas.Blocks(ctx, store, a.CID, count); err != nil {
			return n, fmt.Errorf("artifact %s: %w", a.Role, err)
		}
	}
	return n, nil
}

func differs(a manifest.Artifact, file, what, got, signed string) error {
	return fmt.Errorf("artifact %s: %s is not the file that was signed: its %s is %s, the manifest says %s; use the signed file or sign this one: %w",
		a.Role, file, what, got, signed, cas.ErrCorrupt)
}
