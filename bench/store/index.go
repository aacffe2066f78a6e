package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/ipfs/go-cid"

	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/cas/pack"
)

// lookups is the number of blocks that are looked up.
const lookups = 200_000

// index measures lookups in a store with very many blocks. The blocks have 8 bytes, so that
// they fit on the disk: the cost of a lookup does not depend on their size.
func (b *bench) index(ctx context.Context) error {
	if b.blocks == 0 {
		return nil
	}
	store, blocks := b.path("tiny"), strconv.FormatInt(b.blocks, 10)
	made, err := b.ours(ctx, "tiny", store, blocks, strconv.Itoa(b.packs))
	if err != nil {
		return err
	}
	packs, err := filepath.Glob(filepath.Join(store, "pack-*.car"))
	if err != nil {
		return err
	}
	fmt.Printf("\n5. %d blocks in %d packs (stored in %.1f s with %.1f MiB of memory), one core, medians of %d\n",
		b.blocks, len(packs), made.Sync.Seconds(), float64(made.MaxRSS)/(1<<20), b.runs)
	var open, found, missed []cost
	var rss int64
	for range b.runs {
		r, err := b.ours(ctx, "lookup", store, blocks)
		if err != nil {
			return err
		}
		open, found, missed = append(open, cost{Wall: r.Open}), append(found, r.Found), append(missed, r.Missed)
		rss = max(rss, r.MaxRSS)
	}
	wall, cpu := func(c cost) time.Duration { return c.Wall }, func(c cost) time.Duration { return c.CPU }
	fmt.Printf("  open %v, lookup of a stored block %v (CPU %v), of an unknown block %v (CPU %v), peak memory after %d lookups %.1f MiB\n",
		median(open, wall).Round(time.Millisecond), median(found, wall), median(found, cpu), median(missed, wall), median(missed, cpu),
		2*lookups, float64(rss)/(1<<20))
	if err := os.Remove(filepath.Join(store, "packs.idx")); err != nil {
		return err
	}
	r, err := b.ours(ctx, "merge", store, "-")
	if err != nil {
		return err
	}
	fmt.Printf("  packs.idx missing: rebuilt by the next writer in %v, peak memory %.1f MiB\n",
		r.Open.Round(time.Millisecond), float64(r.MaxRSS)/(1<<20))
	return os.RemoveAll(store)
}

func tinyBlock(i int64) (cid.Cid, []byte) {
	data := binary.BigEndian.AppendUint64(nil, uint64(i))
	return cas.Sum(cid.Raw, data), data
}

// tinyPack returns the pack size that distributes the blocks over this number of packs.
func tinyPack(blocks, packs string) (int64, error) {
	n, err := strconv.ParseInt(blocks, 10, 64)
	m, e := strconv.ParseInt(packs, 10, 64)
	if err = errors.Join(err, e); err != nil {
		return 0, err
	}
	const section = 1 + 36 + 8
	return max(1, n*section/m), nil
}

func putTiny(ctx context.Context, p *pack.Store, blocks string) error {
	n, err := strconv.ParseInt(blocks, 10, 64)
	if err != nil {
		return err
	}
	for i := range n {
		c, data := tinyBlock(i)
		if err := p.Put(ctx, c, data); err != nil {
			return err
		}
	}
	return nil
}

// lookup looks up stored blocks and as many unknown ones.
func (r *result) lookup(ctx context.Context, p *pack.Store, blocks string) error {
	n, err := strconv.ParseInt(blocks, 10, 64)
	if err != nil {
		return err
	}
	for _, sought := range []struct {
		from int64
		took *cost
		ok   bool
	}{{0, &r.Found, true}, {n, &r.Missed, false}} {
		names := make([]cid.Cid, lookups)
		for i := range names {
			names[i], _ = tinyBlock(sought.from + rand.Int64N(n))
		}
		start, used := time.Now(), cpu(rusage())
		for _, c := range names {
			if ok, err := p.Has(ctx, c); err != nil || ok != sought.ok {
				return errors.Join(err, fmt.Errorf("block %s: listed %t, want %t", c, ok, sought.ok))
			}
		}
		*sought.took = cost{time.Since(start) / lookups, (cpu(rusage()) - used) / lookups}
	}
	return nil
}
