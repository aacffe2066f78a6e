package main

import (
	"context"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	"github.com/phaseboot/phaseboot/cas"
)

// newBytes prints what the second root filesystem costs a machine that has the first.
func (b *bench) newBytes(ctx context.Context) error {
	first, second := filepath.Join(b.pair, "first.squashfs"), filepath.Join(b.pair, "second.squashfs")
	var sizes [2]int64
	for i, name := range []string{first, second} {
		fi, err := os.Stat(name)
		if err != nil {
			return fmt.Errorf("pair: %w; run: scripts/bench-pair.sh %s", err, b.pair)
		}
		sizes[i] = fi.Size()
	}
	fmt.Printf("\n2. new bytes of the next release, %.1f to %.1f MB of squashfs, index included\n", float64(sizes[0])/1e6, float64(sizes[1])/1e6)
	delta := b.path("delta")
	if _, err := peer(ctx, "xdelta3", "-e", "-9", "-f", "-s", first, second, delta); err != nil {
		return err
	}
	fi, err := os.Stat(delta)
	if err != nil {
		return err
	}
	best := fi.Size()
	row := func(name string, n int64, requests string) {
		fmt.Printf("  %-44s %10d bytes   %5.2f x xdelta3   %s\n", name, n, float64(n)/float64(best), requests)
	}
	row("xdelta3 -9, which has both files", best, "")
	for _, chunker := range chunkers() {
		n, err := b.ourNew(ctx, chunker, first, second)
		if err != nil {
			return err
		}
		row(chunker, n.NewData, fmt.Sprintf("%d new blocks", n.Blocks))
	}
	for _, size := range []string{"65536", "16384"} {
		n, err := b.casyncNew(ctx, size, first, second)
		if err != nil {
			return err
		}
		row("casync, chunks of "+size+", compressed", n, "")
	}
	n, err := b.zsyncNew(ctx, first, second)
	if err != nil { // some versions wait for ever for the end of the file
		row("zsync, stopped before it ended", n, err.Error())
		return ctx.Err()
	}
	row("zsync, its control file included", n, "")
	return nil
}

// chunkers are the default and plain content-defined cutting at other sizes.
func chunkers() []string {
	all := []string{cas.DefaultChunker}
	for _, name := range []string{"fastcdc-v1.0.0", "jc-v1.0.0"} {
		for _, kib := range []int{8, 16, 32, 64} {
			all = append(all, fmt.Sprintf("%s-%d-%d-%d", name, kib<<8, kib<<10, kib<<12))
		}
	}
	return all
}

func (b *bench) ourNew(ctx context.Context, chunker, first, second string) (result, error) {
	store := b.path("pair")
	defer os.RemoveAll(store)
	if _, err := b.ours(ctx, "ingest", store, first, chunker); err != nil {
		return result{}, err
	}
	return b.ours(ctx, "ingest", store, second, chunker)
}

func (b *bench) casyncNew(ctx context.Context, size, first, second string) (int64, error) {
	store := b.path("pair.castr")
	defer os.RemoveAll(store)
	var total [2]int64
	for i, name := range []string{first, second} {
		index := b.path(fmt.Sprintf("pair%d.caibx", i))
		if _, err := peer(ctx, "casync", "make", "--chunk-size="+size, "--store="+store, index, name); err != nil {
			return 0, err
		}
		n, err := treeSize(store)
		if err != nil {
			return 0, err
		}
		fi, err := os.Stat(index)
		if err != nil {
			return 0, err
		}
		total[i] = n
		if i == 1 {
			total[i] += fi.Size()
		}
	}
	return total[1] - total[0], nil
}

func treeSize(dir string) (int64, error) {
	var sum int64
	err := filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		fi, err := d.Info()
		if err == nil {
			sum += fi.Size()
		}
		return err
	})
	return sum, err
}

// zsyncNew lets zsync fetch the second file over HTTP, and counts the bytes of bodies.
func (b *bench) zsyncNew(ctx context.Context, first, second string) (int64, error) {
	control := b.path("second.zsync")
	if _, err := peer(ctx, "zsyncmake", "-u", "second.squashfs", "-o", control, second); err != nil {
		return 0, err
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	var sent atomic.Int64
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		name := second
		if filepath.Base(r.URL.Path) == "second.zsync" {
			name = control
		}
		http.ServeFile(counted{w, &sent}, r, name)
	})}
	go server.Serve(listener)
	defer server.Close()
	url := fmt.Sprintf("http://%s/second.zsync", listener.Addr())
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	if _, err := peer(ctx, "env", "-u", "http_proxy", "zsync", "-q", "-i", first, "-o", b.path("fetched"), url); err != nil {
		return sent.Load(), err
	}
	return sent.Load(), os.RemoveAll(b.path("fetched"))
}

type counted struct {
	http.ResponseWriter
	sent *atomic.Int64
}

func (c counted) Write(b []byte) (int, error) {
	n, err := c.ResponseWriter.Write(b)
	c.sent.Add(int64(n))
	return n, err
}
