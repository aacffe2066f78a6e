package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/ipfs/go-cid"

	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/internal/gateway"
)

const (
	askPause = 50 * time.Millisecond // between two questions to one machine
	askLimit = 2 * time.Second
)

// A holding is what machines have of a release, as they say it themselves at /have/.
type holding struct {
	artifacts []artifact
	total     int64
	complete  chan struct{} // closed when each leaf is at some machine

	mu   sync.Mutex
	have [][][]byte // bitmaps by machine and artifact
	all  bool
}

// An artifact is a file of a release in the publisher's store.
type artifact struct {
	root   cid.Cid
	leaves []cas.Leaf
}

// holding prepares for a number of machines.
func (r *repository) holding(ctx context.Context, machines int) (*holding, error) {
	h := &holding{complete: make(chan struct{}), have: make([][][]byte, machines)}
	for _, name := range []string{"kernel", "initramfs", "rootfs"} {
		text, size, err := r.artifact(ctx, name)
		if err != nil {
			return nil, err
		}
		root, err := cas.ParseCID(text)
		if err != nil {
			return nil, err
		}
		leaves, err := r.leaves(ctx, root, size)
		if err != nil {
			return nil, err
		}
		h.artifacts = append(h.artifacts, artifact{root, leaves})
		h.total += size
	}
	for i := range h.have {
		h.have[i] = make([][]byte, len(h.artifacts))
	}
	return h, nil
}

// leaves lists the leaves of a file.
func (r *repository) leaves(ctx context.Context, root cid.Cid, size int64) ([]cas.Leaf, error) {
	store, err := cas.OpenPacks(r.path("store"), cas.PackOptions{ReadOnly: true})
	if err != nil {
		return nil, err
	}
	defer store.Close()
	return cas.Leaves(ctx, store, root, size)
}

// follow asks every machine again and again, each from inside its own namespace: nothing
// of it is on a wire.
func (h *holding) follow(ctx context.Context, machines []*host) {
	for i, m := range machines {
		go h.ask(ctx, i, m)
	}
}

func (h *holding) ask(ctx context.Context, machine int, at *host) {
	transport := &http.Transport{DialContext: func(_ context.Context, network, addr string) (c net.Conn, err error) {
		err = within(at.ns, func() error {
			c, err = net.DialTimeout(network, addr, askLimit)
			return err
		})
		return c, err
	}}
	defer transport.CloseIdleConnections()
	for ; ctx.Err() == nil; time.Sleep(askPause) {
		for _, port := range at.ports() {
			c := &gateway.Client{Base: "http://127.0.0.1:" + strconv.Itoa(port), HTTP: &http.Client{Transport: transport}, Idle: askLimit}
			for h.round(ctx, c, machine) {
				time.Sleep(askPause)
			}
		}
	}
}

// round asks about every artifact once; false when no machine answers.
func (h *holding) round(ctx context.Context, c *gateway.Client, machine int) bool {
	for k, a := range h.artifacts {
		if h.full(machine, k) {
			continue
		}
		bitmap, _, err := c.Have(ctx, a.root, len(a.leaves), "")
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return false
		}
		if err == nil {
			h.take(machine, k, bitmap)
		}
	}
	return true
}

func (h *holding) full(machine, k int) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return bytes.Equal(h.have[machine][k], ones(len(h.artifacts[k].leaves)))
}

func (h *holding) take(machine, k int, bitmap []byte) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.have[machine][k] = bitmap
	if !h.all && h.united() {
		h.all = true
		close(h.complete)
	}
}

// united reports whether each leaf is at some machine.
func (h *holding) united() bool {
	for k, a := range h.artifacts {
		all := ones(len(a.leaves))
		union := make([]byte, len(all))
		for _, have := range h.have {
			for i, b := range have[k] {
				union[i] |= b
			}
		}
		if !bytes.Equal(union, all) {
			return false
		}
	}
	return true
}

// missing is how many machines lack something, and which part of the bytes is still to
// come, over all machines.
func (h *holding) missing() (machines int, part float64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, have := range h.have {
		lacks := h.total
		for k, a := range h.artifacts {
			for i, l := range a.leaves {
				if have[k] != nil && have[k][i/8]&(0x80>>(i%8)) != 0 {
					lacks -= l.Size
				}
			}
		}
		if lacks > 0 {
			machines++
		}
		part += float64(lacks) / float64(h.total) / float64(len(h.have))
	}
	return machines, part
}

// ports are where something listens on all addresses of a host, by IPv6 as Go does it.
func (h *host) ports() (list []int) {
	within(h.ns, func() error {
		text, err := os.ReadFile("/proc/thread-self/net/tcp6")
		for line := range strings.Lines(string(text)) {
			fields := strings.Fields(line)
			if len(fields) < 4 || fields[3] != "0A" { // listening
				continue
			}
			_, port, _ := strings.Cut(fields[1], ":")
			if n, err := strconv.ParseUint(port, 16, 16); err == nil {
				list = append(list, int(n))
			}
		}
		return err
	})
	return list
}

// A stop is the moment at which a publisher vanished.
type stop struct {
	why     string
	after   time.Duration
	copies  float64
	lacking int     // machines that did not have all
	part    float64 // of the bytes of all machines that was to come
}

// words say when that was; last is when the last machine was done.
func (s *stop) words(last time.Duration) string {
	if s == nil {
		return "the publisher was never stopped: all were done before"
	}
	return fmt.Sprintf("publisher stopped after %.2f s and %.3f copies, %s; %d machines lacked something, the average machine %.2f%%; all done %.2f s later",
		seconds(s.after), s.copies, s.why, s.lacking, 100*s.part, seconds(last-s.after))
}
