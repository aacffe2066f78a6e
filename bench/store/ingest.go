package main

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"strconv"

	"github.com/phaseboot/phaseboot/cas"
)

// ingest measures adding a random file that is in the page cache.
func (b *bench) ingest(ctx context.Context) error {
	file := b.path("random")
	if err := writeRandom(file, b.size); err != nil {
		return err
	}
	store, synced := b.path("store"), b.path("synced")
	all := []*contestant{
		{name: "ingest, written as cp writes", run: b.ingestChild(store, file, cas.DefaultChunker, true, nil)},
		{name: "ingest, synced", run: func(ctx context.Context) (cost, error) {
			if err := os.RemoveAll(synced); err != nil {
				return cost{}, err
			}
			r, err := b.ours(ctx, "ingest", synced, file, cas.DefaultChunker)
			return cost{r.Sync, r.CPU}, err
		}},
		{name: "ingest again, all known", run: b.ingestChild(store, file, cas.DefaultChunker, false, nil)},
		{name: "b3sum --num-threads 1", run: func(ctx context.Context) (cost, error) {
			return tool(ctx, "b3sum", "--num-threads", "1", file)
		}},
		{name: "cp", run: func(ctx context.Context) (cost, error) {
			os.Remove(b.path("copy")) // it may not exist
			return tool(ctx, "cp", "--reflink=never", file, b.path("copy"))
		}},
		{name: "casync make", run: func(ctx context.Context) (cost, error) {
			if err := os.RemoveAll(b.path("castr")); err != nil {
				return cost{}, err
			}
			return tool(ctx, "casync", "make", "--store="+b.path("castr"), b.path("random.caibx"), file)
		}},
	}
	medians, err := b.race(ctx, all)
	if err != nil {
		return err
	}
	table(fmt.Sprintf("1. %d MiB of random bytes in the page cache, medians of %d", b.size>>20, b.runs), b.size, all, medians)
	for _, name := range []string{"store", "synced", "copy", "castr"} {
		if err := os.RemoveAll(b.path(name)); err != nil {
			return err
		}
	}
	return os.Remove(file)
}

// ingestChild returns a run that adds file to store, which is emptied before if fresh. The
// run stores its result in keep unless that is nil.
func (b *bench) ingestChild(store, file, chunker string, fresh bool, keep *result) func(context.Context) (cost, error) {
	return func(ctx context.Context) (cost, error) {
		if fresh {
			if err := os.RemoveAll(store); err != nil {
				return cost{}, err
			}
		}
		r, err := b.ours(ctx, "ingest", store, file, chunker)
		if keep != nil {
			*keep = r
		}
		return cost{r.Work, r.CPU}, err
	}
}

// read measures reading a file in order and its blocks in random order.
func (b *bench) read(ctx context.Context) error {
	file, store, blocks := b.path("random"), b.path("store"), b.path("blocks")
	if err := writeRandom(file, b.size); err != nil {
		return err
	}
	var last, small result
	if _, err := b.ingestChild(store, file, cas.DefaultChunker, true, &last)(ctx); err != nil {
		return err
	}
	if _, err := b.ingestChild(blocks, file, "size-16384", true, &small)(ctx); err != nil {
		return err
	}
	read := func(work, store string, r *result) func(context.Context) (cost, error) {
		return func(ctx context.Context) (cost, error) {
			done, err := b.ours(ctx, work, store, r.File.CID.String(), strconv.FormatInt(r.File.Size, 10))
			return cost{done.Work, done.CPU}, err
		}
	}
	all := []*contestant{
		{name: "whole file, every block verified", run: read("copy", store, &last)},
		{name: "random blocks of 16 KiB, verified", run: read("random", blocks, &small)},
		{name: "b3sum --num-threads 1", run: func(ctx context.Context) (cost, error) {
			return tool(ctx, "b3sum", "--num-threads", "1", file)
		}},
	}
	medians, err := b.race(ctx, all)
	if err != nil {
		return err
	}
	table(fmt.Sprintf("3. reading %d MiB in the page cache, medians of %d", b.size>>20, b.runs), b.size, all, medians)
	fmt.Printf("  that is %.0f random blocks a second\n", float64(b.size/(16<<10))/medians[1].Wall.Seconds())
	for _, name := range []string{"store", "blocks", "random"} {
		if err := os.RemoveAll(b.path(name)); err != nil {
			return err
		}
	}
	return nil
}

func writeRandom(path string, n int64) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	// blocks of 1 MiB, as cp writes; os.File.ReadFrom would use 32 KiB
	if _, err := io.CopyBuffer(struct{ io.Writer }{f}, io.LimitReader(rand.NewChaCha8([32]byte{7}), n), make([]byte, 1<<20)); err != nil {
		f.Close()
		return err
	}
	return f.Close()
}

// memory measures the peak memory while adding a file larger than all our caches.
func (b *bench) memory(ctx context.Context) error {
	if b.big == 0 {
		return nil
	}
	r, err := b.ours(ctx, "stream", b.path("big"), strconv.FormatInt(b.big, 10))
	if err != nil {
		return err
	}
	fmt.Printf("\n4. ingest of %d MiB: peak memory %.1f MiB, %.2f s and %.2f s more until synced\n",
		b.big>>20, float64(r.MaxRSS)/(1<<20), r.Work.Seconds(), (r.Sync - r.Work).Seconds())
	return os.RemoveAll(b.path("big"))
}
