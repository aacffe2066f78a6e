package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/ipfs/go-cid"

	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/cas/pack"
)

// A result is the measurement of one child process.
type result struct {
	Open    time.Duration // time to open the store
	Work    time.Duration // time of the work without the final sync
	Sync    time.Duration // time of the work and the final sync
	CPU     time.Duration // processor time of the whole process, all cores
	Blocks  int64
	File    cas.File
	MaxRSS  int64 // bytes
	NewData int64 // bytes that were not in the store
	Found   cost  // of a lookup of a stored block
	Missed  cost  // of a lookup of an unknown block
}

// child does the work of one measurement: "ingest STORE FILE CHUNKER", "stream STORE BYTES",
// "copy STORE CID SIZE", "random STORE CID SIZE", "tiny STORE BLOCKS PACKS", "merge STORE -",
// or "lookup STORE BLOCKS".
func child(ctx context.Context, args []string) (result, error) {
	if len(args) < 3 {
		return result{}, errors.New("child: too few arguments")
	}
	var r result
	opts := pack.Options{ReadOnly: args[0] == "copy" || args[0] == "random" || args[0] == "lookup"}
	var err error
	if args[0] == "tiny" {
		if opts.MaxPack, err = tinyPack(args[2], args[3]); err != nil {
			return r, err
		}
	}
	opening := time.Now()
	p, err := pack.Open(args[1], opts)
	if err != nil {
		return r, err
	}
	start := time.Now()
	r.Open = start.Sub(opening)
	switch args[0] {
	case "ingest":
		err = r.ingest(ctx, p, args[2], args[3])
	case "stream":
		n, e := strconv.ParseInt(args[2], 10, 64)
		src := rand.NewChaCha8([32]byte{1})
		_, err = cas.AddFile(ctx, p.Put, io.LimitReader(src, n), cas.DefaultChunker)
		err = errors.Join(e, err)
	case "copy", "random":
		err = r.read(ctx, p, args)
	case "tiny":
		err = putTiny(ctx, p, args[2])
	case "lookup":
		err = r.lookup(ctx, p, args[2])
	}
	if r.Work == 0 {
		r.Work = time.Since(start)
	}
	err = errors.Join(err, p.Close())
	r.Sync = time.Since(start)
	usage := rusage()
	r.MaxRSS, r.CPU = usage.Maxrss<<10, cpu(usage)
	return r, err
}

func rusage() syscall.Rusage {
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		panic(err) // cannot happen for RUSAGE_SELF
	}
	return usage
}

func cpu(usage syscall.Rusage) time.Duration {
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}

func (r *result) ingest(ctx context.Context, p *pack.Store, file, chunker string) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	before, err := p.Stats(ctx)
	if err != nil {
		return err
	}
	if r.File, err = cas.AddFile(ctx, p.Put, f, chunker); err != nil {
		return err
	}
	after, err := p.Stats(ctx)
	r.NewData, r.Blocks = after.Bytes-before.Bytes, after.Blocks-before.Blocks
	return err
}

// read copies a file to nowhere, or reads its leaves in random order on all cores.
func (r *result) read(ctx context.Context, p *pack.Store, args []string) error {
	c, err := cas.ParseCID(args[2])
	if err != nil {
		return err
	}
	size, err := strconv.ParseInt(args[3], 10, 64)
	if err != nil {
		return err
	}
	if args[0] == "copy" {
		return cas.Copy(ctx, io.Discard, p, c, size)
	}
	return r.random(ctx, p, c, size)
}

func (r *result) random(ctx context.Context, p *pack.Store, c cid.Cid, size int64) error {
	leaves, err := cas.Leaves(ctx, p, c, size)
	if err != nil {
		return err
	}
	r.Blocks = int64(len(leaves))
	rand.Shuffle(len(leaves), func(i, j int) { leaves[i], leaves[j] = leaves[j], leaves[i] })
	start := time.Now() // listing the leaves does not count
	workers := runtime.GOMAXPROCS(0)
	errs := make([]error, workers)
	var wg sync.WaitGroup
	for w := range workers {
		wg.Go(func() {
			var buf []byte
			for i := w; i < len(leaves) && errs[w] == nil; i += workers {
				_, errs[w] = cas.ReadLeafInto(ctx, p, leaves[i], &buf)
			}
		})
	}
	wg.Wait()
	r.Work = time.Since(start)
	return errors.Join(errs...)
}

// ours runs a child process and returns its result.
func (b *bench) ours(ctx context.Context, args ...string) (result, error) {
	var r result
	cmd := exec.CommandContext(ctx, b.self, append([]string{"child"}, args...)...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return r, fmt.Errorf("%w: %s", err, stderr.Bytes())
	}
	return r, json.Unmarshal(out, &r)
}

// tool runs another program and returns its cost.
func tool(ctx context.Context, name string, args ...string) (cost, error) {
	if _, err := exec.LookPath(name); err != nil {
		return cost{}, fmt.Errorf("%w; run: scripts/deps-check.sh --install bench", err)
	}
	start := time.Now()
	cmd := exec.CommandContext(ctx, name, args...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		return cost{}, fmt.Errorf("%s: %w: %.300s", name, err, out)
	}
	return cost{time.Since(start), cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()}, nil
}
