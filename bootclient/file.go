package bootclient

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/ipfs/go-cid"

	"github.com/phaseboot/phaseboot/bootclient/cache"
	"github.com/phaseboot/phaseboot/bootclient/peers"
	"github.com/phaseboot/phaseboot/bootclient/share"
	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/internal/refusal"
	"github.com/phaseboot/phaseboot/manifest"
)

// A TooLargeError is the error of File for a file of more bytes than its limit.
type TooLargeError struct{ Size, Limit int64 }

func (e *TooLargeError) Error() string {
	return fmt.Sprintf("%d bytes, the limit is %d", e.Size, e.Limit)
}

// File returns the bytes of the file c, at most limit of them, from the cache and from the sources that Run
// would use. Every block is verified before it is used; no leaf is requested of a file that is too large. The file
// need not belong to a release, and Config.Root may be nil: it only names sources here. File serves nothing and
// writes nothing. It tries again, as docs/PATIENCE.md says, for Config.Timeout in all.
//
// The error is a *TooLargeError, or wraps cas.ErrCorrupt if sources sent only wrong bytes, and cas.ErrUnreachable
// otherwise. It names what was asked.
func File(ctx context.Context, cfg Config, c cid.Cid, limit int64) ([]byte, error) {
	if cfg.Mode.Cache == "rw" {
		cfg.Mode.Cache = "ro"
	}
	cfg = cfg.complete()
	cfg.Patience = cfg.Timeout
	var trust manifest.Discovery
	if cfg.Root != nil {
		root, err := manifest.ParseRoot(cfg.Root)
		if err != nil {
			return nil, err
		}
		trust = cfg.addresses(root)
	}
	ctx, cancel := context.WithTimeout(ctx, cfg.Timeout)
	defer cancel()
	held, err := cache.Open(ctx, cfg.cacheOptions())
	if err != nil {
		return nil, err
	}
	defer held.Close()
	if held.IsOpen() {
		if data, err := readFile(ctx, peers.Pool{Cache: held}, c, limit); err == nil || isTooLarge(err) {
			return data, err
		}
	}
	return cfg.fetchFile(ctx, trust, held, c, limit)
}

func isTooLarge(err error) bool {
	var e *TooLargeError
	return errors.As(err, &e)
}

// fetchFile reads a file from the network.
func (c Config) fetchFile(ctx context.Context, trust manifest.Discovery, held *cache.Cache, id cid.Cid, limit int64) ([]byte, error) {
	began := time.Now()
	sharing, disc, err := c.discover(ctx, trust, share.Options{})
	if err != nil {
		return nil, err
	}
	defer sharing.Close()
	defer disc.Close()
	disc.SearchProviders(id)
	pool := peers.Pool{Cache: held, Sources: disc.Sources}
	data, err := readFile(ctx, preferring{pool, peers.NewStallTimer(disc)}, id, limit)
	switch {
	case err == nil, isTooLarge(err), errors.Is(ctx.Err(), context.Canceled):
		return data, err
	case errors.Is(err, cas.ErrCorrupt):
		return nil, refusal.New(cas.ErrCorrupt, "%v (%s)", err, disc.Status())
	}
	return nil, refusal.New(cas.ErrUnreachable, "no source sent it within %s (%s)", time.Since(began).Round(time.Second), disc.Status())
}

// preferring reads each block with patience, and first from the source that has sent most of them.
type preferring struct {
	peers.Pool
	stall *peers.StallTimer
}

// Block returns the verified block c.
func (p preferring) Block(ctx context.Context, c cid.Cid) ([]byte, error) {
	p.Prefer = p.Sources.Best()
	return p.WithPatience(p.stall).Block(ctx, c)
}

// readFile reads the root of a file, which has its length, and then the rest.
func readFile(ctx context.Context, src cas.Source, c cid.Cid, limit int64) ([]byte, error) {
	root, err := cas.Get(ctx, src, c)
	if err != nil {
		return nil, err
	}
	n, err := cas.DecodeNode(c, root)
	switch {
	case err != nil:
		return nil, err
	case n.Dir:
		return nil, refusal.New(cas.ErrCorrupt, "a folder, not a file; name the CID of a file")
	case n.Size > limit:
		return nil, &TooLargeError{n.Size, limit}
	}
	var data bytes.Buffer
	data.Grow(int(n.Size))
	err = cas.Copy(ctx, &data, withRoot{src, c, root}, c, n.Size)
	return data.Bytes(), err
}

// withRoot is a source that has one block already.
type withRoot struct {
	cas.Source
	root  cid.Cid
	block []byte
}

// Block returns the block c.
func (w withRoot) Block(ctx context.Context, c cid.Cid) ([]byte, error) {
	if c.Equals(w.root) {
		return w.block, nil
	}
	return w.Source.Block(ctx, c)
}
