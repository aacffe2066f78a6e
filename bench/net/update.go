package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/ipfs/go-cid"

	"github.com/phaseboot/phaseboot/cas"
)

// update counts what the next release costs a machine whose cache holds the last one.
func (t *tool) update(ctx context.Context) error {
	r, err := t.newRepository(ctx, "pair")
	if err != nil {
		return err
	}
	defer os.RemoveAll(r.dir)
	files := []string{filepath.Join(t.pair, "first.squashfs"), filepath.Join(t.pair, "second.squashfs")}
	if err := r.publish(ctx, "1", files[0]); err != nil {
		return fmt.Errorf("%w; scripts/bench-pair.sh %s makes the pair", err, t.pair)
	}
	l, err := newSegment(ctx, 2)
	if err != nil {
		return err
	}
	defer l.remove()
	server, machine := l.hosts[0], l.hosts[1]
	if err := server.exact(ctx); err != nil {
		return err
	}
	fill := t.path("cache")
	defer os.RemoveAll(fill)
	if _, _, err := t.counted(ctx, r, l, fill); err != nil {
		return err
	}
	if err := r.publish(ctx, "2", files[1]); err != nil {
		return err
	}
	fresh, leaves, err := r.fresh(ctx, files)
	if err != nil {
		return err
	}
	var wire []int64
	again := ""
	for range t.runs {
		cache := t.path("cache-again")
		if _, err := output(ctx, "cp", "-a", fill, cache); err != nil {
			return err
		}
		n, resent, err := t.counted(ctx, r, l, cache)
		if err != nil {
			return err
		}
		wire = append(wire, n)
		again += fmt.Sprintf(" %d/%d", n, resent)
		if err := os.RemoveAll(cache); err != nil {
			return err
		}
	}
	plain, resent, err := t.countedCurl(ctx, server, machine, fresh)
	if err != nil {
		return err
	}
	fmt.Printf("  %d new leaves, and the inner nodes above them: %d bytes of %s; frames to the machine, medians of %d, headers and all:\n", leaves, fresh, filepath.Base(files[1]), t.runs)
	fmt.Printf("  phase-boot fetch --cache                     %10d bytes   %6.3f x what is new   %.3f x curl\n", median(wire), ratio(median(wire), fresh), ratio(median(wire), plain))
	fmt.Printf("  nginx, curl, one file as large               %10d bytes   %6.3f x\n", plain, ratio(plain, fresh))
	fmt.Printf("    each run, bytes/segments that TCP sent again:%s; curl %d/%d\n", again, plain, resent)
	return nil
}

func ratio(a, b int64) float64 { return float64(a) / float64(b) }

// counted is what one fetch with a cache lets the machine receive.
func (t *tool) counted(ctx context.Context, r *repository, l *segment, cache string) (bytes, resent int64, err error) {
	server, machine := l.hosts[0], l.hosts[1]
	p, at, err := r.serve(ctx, server.ns, server.addr, "--mdns=false")
	if err != nil {
		return 0, 0, err
	}
	defer p.stop()
	return t.received(ctx, server, func(out string) (*process, error) {
		return r.boot(ctx, machine.ns, nil, out, "--mode", "internet", "--mirror", at.HTTP[0], "--cache", cache)
	})
}

// received is what leaves a server while a client works: bytes of frames, and how many
// segments were among them that had been sent before.
func (t *tool) received(ctx context.Context, server *host, client func(out string) (*process, error)) (bytes, resent int64, err error) {
	out, err := t.fetched()
	if err != nil {
		return 0, 0, err
	}
	defer os.RemoveAll(out)
	count := func(sign int64) error {
		n, _, e := server.traffic()
		again, f := server.resent()
		bytes, resent = bytes+sign*n, resent+sign*again
		return errors.Join(e, f)
	}
	if err := count(-1); err != nil {
		return 0, 0, err
	}
	p, err := client(filepath.Join(out, "out"))
	if err != nil {
		return 0, 0, err
	}
	if err := p.finish(); err != nil {
		return 0, 0, err
	}
	err = count(1)
	return bytes, resent, err
}

func (t *tool) countedCurl(ctx context.Context, server, machine *host, size int64) (bytes, resent int64, err error) {
	dir := t.path("plain")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return 0, 0, err
	}
	defer os.RemoveAll(dir)
	if err := writeRandom(filepath.Join(dir, "file"), size); err != nil {
		return 0, 0, err
	}
	p, err := t.nginx(ctx, server.ns, server.addr+":80", dir)
	if err != nil {
		return 0, 0, err
	}
	defer p.stop()
	return t.received(ctx, server, func(out string) (*process, error) {
		return t.curl(ctx, machine.ns, nil, "http://"+server.addr+"/file", out)
	})
}

// fresh is how many bytes of leaves and inner nodes, and how many leaves, the second file
// has that the first has not. Kernel and initramfs are the same in both releases.
func (r *repository) fresh(ctx context.Context, files []string) (bytes int64, leaves int, err error) {
	store, err := cas.OpenPacks(r.path("store"), cas.PackOptions{ReadOnly: true})
	if err != nil {
		return 0, 0, err
	}
	defer store.Close()
	seen := map[cid.Cid]bool{}
	for i, name := range files {
		f, err := os.Open(name)
		if err != nil {
			return 0, 0, err
		}
		defer f.Close()
		nodes := map[cid.Cid]int64{} // come out of adding it once more
		file, err := cas.AddFile(ctx, func(_ context.Context, c cid.Cid, data []byte) error {
			if c.Prefix().Codec == cid.DagProtobuf {
				nodes[c] = int64(len(data))
			}
			return nil
		}, f, cas.DefaultChunker)
		if err != nil {
			return 0, 0, err
		}
		list, err := cas.Leaves(ctx, store, file.CID, file.Size)
		if err != nil {
			return 0, 0, err
		}
		for _, l := range list {
			if !seen[l.CID] && i > 0 {
				bytes, leaves = bytes+l.Size, leaves+1
			}
			seen[l.CID] = true
		}
		for c, size := range nodes {
			if !seen[c] && i > 0 {
				bytes += size
			}
			seen[c] = true
		}
	}
	return bytes, leaves, nil
}
