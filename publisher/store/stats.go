package store

import (
	"context"
	"errors"
	"io/fs"

	"github.com/ipfs/go-cid"

	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/cas/pack"
	"github.com/phaseboot/phaseboot/publisher/repo"
)

// Stats count the blocks of the store by release. Bytes are those of the sections in packs.
type Stats struct {
	pack.Stats
	Keep     int            `json:"keep"`         // newest contents of each channel and architecture that gc keeps
	Wasted   int64          `json:"wasted_bytes"` // that no kept release needs; gc with the same number removes most
	Releases []ReleaseStats `json:"releases"`
}

// ReleaseStats are one release's share of a store.
type ReleaseStats struct {
	Channel  string `json:"channel"`
	Arch     string `json:"arch"`
	Release  string `json:"release"`
	Version  int64  `json:"role_version"`
	Blocks   int64  `json:"blocks"`
	Bytes    int64  `json:"bytes"`
	Shared   int64  `json:"shared_bytes"` // with other releases
	Complete bool   `json:"whole"`        // false for a release whose blocks gc removed or the store lost
	Kept     bool   `json:"kept"`         // false for a release whose own blocks gc removes
}

// ReadStats counts what each release of the repository has in the store, and what GC would
// remove with the same Keep and Pins.
func ReadStats(ctx context.Context, o Options) (Stats, error) {
	if err := o.checkKeep(); err != nil {
		return Stats{}, err
	}
	releases, err := repo.Releases(ctx, o.Repo)
	if err != nil {
		return Stats{}, err
	}
	packs, err := OpenOrEmpty(ctx, o.Store, len(releases) > 0, o.Log)
	if err != nil {
		return Stats{}, err
	}
	defer packs.Close()
	s := Stats{Keep: o.Keep, Releases: []ReleaseStats{}}
	if s.Stats, err = packs.Stats(ctx); err != nil {
		return s, err
	}
	kept := repo.Newest(releases, o.Keep)
	needed, needs := make(blockSet), make([]blockSet, len(releases))
	users := make(map[cid.Cid]int)
	for _, pin := range o.Pins {
		if _, err := addBlocks(ctx, packs, pin, needed); err != nil {
			return s, err
		}
	}
	for i, r := range releases {
		needs[i] = make(blockSet)
		stats := ReleaseStats{Channel: r.Channel, Arch: r.Arch, Release: r.Version, Version: r.Number, Complete: true, Kept: repo.Contains(kept, r)}
		for _, a := range repo.Artifacts(r) {
			complete, err := addBlocks(ctx, packs, a.CID, needs[i])
			if err != nil {
				return s, err
			}
			stats.Complete = stats.Complete && complete
		}
		for c := range needs[i] {
			users[c]++
			if stats.Kept {
				needed[c] = struct{}{}
			}
		}
		s.Releases = append(s.Releases, stats)
	}
	return s, s.count(ctx, packs, needs, users, needed)
}

// addBlocks adds root and the blocks below it to set, and reports whether the store has all
// nodes.
func addBlocks(ctx context.Context, packs Packs, root cid.Cid, set blockSet) (bool, error) {
	err := cas.Blocks(ctx, packs, root, func(c cid.Cid) error { set[c] = struct{}{}; return nil })
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}

// count goes through the blocks of the store once.
func (s *Stats) count(ctx context.Context, packs Packs, needs []blockSet, users map[cid.Cid]int, needed blockSet) error {
	var used int64
	seen := make(blockSet)
	err := packs.Each(ctx, func(c cid.Cid, bytes int64) error {
		if needed.has(c) { // gc keeps a second copy in another pack too
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
		s.Releases[i].Complete = s.Releases[i].Complete && s.Releases[i].Blocks == int64(len(need))
	}
	s.Wasted = s.Bytes - s.Packs*int64(pack.Overhead) - used
	return err
}
