package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/ipfs/go-cid"

	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/cas/pack"
)

// update counts the bytes of the next release for a machine with the previous one in its
// cache.
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
	if err := server.disableOffload(ctx); err != nil {
		return err
	}
	fill := t.path("cache")
	defer os.RemoveAll(fill)
	if _, _, err := t.fetchBytes(ctx, r, l, fill); err != nil {
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
		n, resent, err := t.fetchBytes(ctx, r, l, cache)
		if err != nil {
			return err
		}
		wire = append(wire, n)
		again += fmt.Sprintf(" %d/%d", n, resent)
		if err := os.RemoveAll(cache); err != nil {
			return err
		}
	}
	plain, resent, err := t.curlBytes(ctx, server, machine, fresh)
	if err != nil {
		return err
	}
	fmt.Printf("  %d new leaves and the inner nodes above them: %d bytes of %s; Ethernet frames to the machine, medians of %d:\n", leaves, fresh, filepath.Base(files[1]), t.runs)
	fmt.Printf("  phase-boot fetch --cache                     %10d bytes   %6.3f x new bytes   %.3f x curl\n", median(wire), ratio(median(wire), fresh), ratio(median(wire), plain))
	fmt.Printf("  nginx, curl, one file of that size           %10d bytes   %6.3f x\n", plain, ratio(plain, fresh))
	fmt.Printf("    each run, bytes/TCP segments retransmitted:%s; curl %d/%d\n", again, plain, resent)
	return nil
}

func ratio(a, b int64) float64 { return float64(a) / float64(b) }

// fetchBytes returns the bytes that a machine with a cache receives during one fetch.
func (t *tool) fetchBytes(ctx context.Context, r *repository, l *segment, cache string) (bytes, resent int64, err error) {
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

// received returns the bytes of frames that a server sends while a client runs, and the
// number of TCP segments that it retransmits.
func (t *tool) received(ctx context.Context, server *host, client func(out string) (*process, error)) (bytes, resent int64, err error) {
	out, err := t.outputDir()
	if err != nil {
		return 0, 0, err
	}
	defer os.RemoveAll(out)
	count := func(sign int64) error {
		n, _, e := server.traffic()
		again, f := server.retransmitted()
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

func (t *tool) curlBytes(ctx context.Context, server, machine *host, size int64) (bytes, resent int64, err error) {
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

// fresh returns the bytes of leaves and inner nodes, and the number of leaves, that only the
// second file has. Kernel and initramfs are equal in both releases.
func (r *repository) fresh(ctx context.Context, files []string) (bytes int64, leaves int, err error) {
	store, err := pack.Open(r.path("store"), pack.Options{ReadOnly: true})
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
		nodes := map[cid.Cid]int64{} // sizes of the inner nodes
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
