package gateway

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"syscall"
	"testing"

	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/cas/castest"
	"github.com/phaseboot/phaseboot/cas/pack"
)

const benchSize = 128 << 20 // bytes of the file

// benchFile adds a file to a store of packs.
func benchFile(b *testing.B) (store *pack.Store, file cas.File, leaves []cas.Leaf) {
	b.Helper()
	store, err := pack.Open(b.TempDir(), pack.Options{})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { store.Close() })
	if file, err = cas.AddFile(b.Context(), store.Put, bytes.NewReader(castest.Bytes(9, benchSize)), cas.DefaultChunker); err != nil {
		b.Fatal(err)
	}
	if leaves, err = cas.Leaves(b.Context(), store, file.CID, file.Size); err != nil {
		b.Fatal(err)
	}
	return store, file, leaves
}

// perGB reports the processor time of the process, server and client, since start.
func perGB(b *testing.B, start syscall.Rusage) {
	b.Helper()
	var end syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &end); err != nil {
		b.Fatal(err)
	}
	used := end.Utime.Nano() + end.Stime.Nano() - start.Utime.Nano() - start.Stime.Nano()
	b.ReportMetric(float64(used)/float64(b.N)/benchSize, "cpu-s/GB")
}

// BenchmarkServeRun sends a file in runs of 4 MiB; the client discards the bytes.
func BenchmarkServeRun(b *testing.B) {
	store, file, _ := benchFile(b)
	for _, bb := range []struct {
		name             string
		sendfile, recent bool
	}{
		{"sendfile, checked lately", true, true},
		{"sendfile, checked each time", true, false},
		{"read, checked lately", false, true},
		{"read, checked each time", false, false},
	} {
		b.Run(bb.name, func(b *testing.B) {
			h := &handler{Options: Options{Source: store}, slots: newSlots(0, slotWait), cache: newCache()}
			serve := http.Handler(h.get(h.ipfs))
			if !bb.sendfile {
				serve = overStream(serve)
			}
			s := httptest.NewServer(serve)
			defer s.Close()
			get := func() {
				for from := int64(0); from < file.Size; from += 4 << 20 {
					if !bb.recent {
						h.cache.verified.Purge()
					}
					resp, err := http.Get(fmt.Sprintf("%s/ipfs/%s?format=car&dag-scope=entity&entity-bytes=%d:%d&nodes=n", s.URL, file.CID, from, min(from+4<<20, file.Size)-1))
					if err != nil {
						b.Fatal(err)
					}
					if _, err := io.Copy(io.Discard, resp.Body); err != nil {
						b.Fatal(err)
					}
					resp.Body.Close()
				}
			}
			get()
			b.SetBytes(benchSize)
			var start syscall.Rusage
			if err := syscall.Getrusage(syscall.RUSAGE_SELF, &start); err != nil {
				b.Fatal(err)
			}
			for b.Loop() {
				get()
			}
			perGB(b, start)
		})
	}
}

// BenchmarkClientRun keeps the last leaves of a run for a moment, as the reorder buffer of a fetch
// does: in the buffer of the run, or as copies.
func BenchmarkClientRun(b *testing.B) {
	store, file, leaves := benchFile(b)
	s := httptest.NewServer(Handler(Options{Source: store}))
	defer s.Close()
	c := &Client{Base: s.URL}
	const behind = 32 // leaves
	for _, bb := range []struct {
		name string
		keep func(leaf RunLeaf) (release func())
	}{
		{"used at once", func(RunLeaf) func() { return func() {} }},
		{"retained", func(leaf RunLeaf) func() {
			if leaf.Retain() {
				return leaf.Release
			}
			return func() {}
		}},
		{"copied", func(leaf RunLeaf) func() { sink = bytes.Clone(leaf.Data); return func() {} }},
	} {
		b.Run(bb.name, func(b *testing.B) {
			var releases []func()
			get := func() {
				for i := 0; i < len(leaves); i += 64 {
					err := c.Run(b.Context(), file.CID, leaves[i:min(i+64, len(leaves))], func(_ int, leaf RunLeaf) error {
						if releases = append(releases, bb.keep(leaf)); len(releases) > behind {
							releases[0]()
							releases = releases[1:]
						}
						return nil
					})
					if err != nil {
						b.Fatal(err)
					}
				}
				for _, release := range releases {
					release()
				}
				releases = nil
			}
			get()
			b.SetBytes(benchSize)
			b.ReportAllocs()
			var start syscall.Rusage
			if err := syscall.Getrusage(syscall.RUSAGE_SELF, &start); err != nil {
				b.Fatal(err)
			}
			for b.Loop() {
				get()
			}
			perGB(b, start)
		})
	}
}

var sink []byte
