package store

import (
	"context"
	"errors"
	"fmt"
	"io/fs"

	"github.com/ipfs/go-cid"

	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/manifest"
	"github.com/phaseboot/phaseboot/publisher/repo"
)

// Complete returns the first block of the releases that the store does not list, as an
// error. It reads the nodes and looks the leaves up in the index.
func Complete(ctx context.Context, packs cas.Store, releases []manifest.Release) error {
	for r, a := range repo.Artifacts(releases...) {
		err := cas.Blocks(ctx, packs, a.CID, func(c cid.Cid) error { return Listed(ctx, packs, c) })
		if err != nil {
			return fmt.Errorf("%s/%s: release %q, %s: %w", r.Channel, r.Arch, r.Version, a.Role, err)
		}
	}
	return nil
}

// Listed returns cas.NotFound for a block that the store does not list.
func Listed(ctx context.Context, packs cas.Store, c cid.Cid) error {
	has, err := packs.Has(ctx, c)
	if err == nil && !has {
		err = cas.NotFound(c)
	}
	return err
}

// Damaged is the error of a store that lacks what is published; what says which block. It
// wraps cas.ErrCorrupt.
func Damaged(dir, what string) error {
	return fmt.Errorf("store %s: %w: %s; phase-publish fsck lists everything that machines cannot fetch, and repairs it with --repair URL", shown(dir), cas.ErrCorrupt, what)
}

// MustHave turns the absence of a block that the store must have into the error Damaged.
// Every command that reads a store with lost blocks exits with the same code.
func MustHave(dir string, err error) error {
	if !errors.Is(err, fs.ErrNotExist) || errors.Is(err, cas.ErrCorrupt) {
		return err
	}
	return Damaged(dir, err.Error())
}

// ExplainMissing is MustHave when the store lacks blocks of what is published. Otherwise it
// returns err: the store may never have had the missing block.
func ExplainMissing(ctx context.Context, r *repo.Repo, dir string, packs cas.Store, err error) error {
	if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	releases, readErr := r.PublishedReleases(ctx)
	if readErr != nil {
		return err
	}
	if gap := Complete(ctx, packs, releases); errors.Is(gap, fs.ErrNotExist) {
		return MustHave(dir, fmt.Errorf("%w; %w", err, gap))
	}
	return err
}
