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
	"github.com/phaseboot/phaseboot/cas/pack"
	"github.com/phaseboot/phaseboot/internal/gateway"
)

const (
	pollPause   = 50 * time.Millisecond // between two requests to one machine
	pollTimeout = 2 * time.Second
)

// An availability is the bitfields of a release that machines report at /have/.
type availability struct {
	artifacts []artifact
	total     int64
	complete  chan struct{} // closed when each leaf is at some machine

	mu   sync.Mutex
	have [][][]byte // bitfields by machine and artifact
	all  bool       // complete is closed
}

// An artifact is a file of a release in the publisher's store.
type artifact struct {
	root   cid.Cid
	leaves []cas.Leaf
}

// availability returns an empty availability for a number of machines.
func (r *repository) availability(ctx context.Context, machines int) (*availability, error) {
	h := &availability{complete: make(chan struct{}), have: make([][][]byte, machines)}
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
	store, err := pack.Open(r.path("store"), pack.Options{ReadOnly: true})
	if err != nil {
		return nil, err
	}
	defer store.Close()
	return cas.Leaves(ctx, store, root, size)
}

// poll requests the bitfields of every machine in a loop until ctx ends. It connects inside
// the machine's namespace, so that the requests are not counted as traffic.
func (h *availability) poll(ctx context.Context, machines []*host) {
	for i, m := range machines {
		go h.pollMachine(ctx, i, m)
	}
}

func (h *availability) pollMachine(ctx context.Context, machine int, at *host) {
	transport := &http.Transport{DialContext: func(_ context.Context, network, addr string) (c net.Conn, err error) {
		err = inNamespace(at.ns, func() error {
			c, err = net.DialTimeout(network, addr, pollTimeout)
			return err
		})
		return c, err
	}}
	defer transport.CloseIdleConnections()
	for ; ctx.Err() == nil; time.Sleep(pollPause) {
		for _, port := range at.ports() {
			c := &gateway.Client{Base: "http://127.0.0.1:" + strconv.Itoa(port), HTTP: &http.Client{Transport: transport}, Idle: pollTimeout}
			for h.request(ctx, c, machine) {
				time.Sleep(pollPause)
			}
		}
	}
}

// request requests the bitfield of every incomplete artifact once. It returns false if the
// machine does not answer.
func (h *availability) request(ctx context.Context, c *gateway.Client, machine int) bool {
	for k, a := range h.artifacts {
		if h.full(machine, k) {
			continue
		}
		bitfield, _, err := c.Have(ctx, a.root, len(a.leaves), "")
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return false
		}
		if err == nil {
			h.update(machine, k, bitfield)
		}
	}
	return true
}

func (h *availability) full(machine, k int) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return bytes.Equal(h.have[machine][k], fullBitfield(len(h.artifacts[k].leaves)))
}

func (h *availability) update(machine, k int, bitfield []byte) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.have[machine][k] = bitfield
	if !h.all && h.covered() {
		h.all = true
		close(h.complete)
	}
}

// covered reports whether each leaf is at some machine.
func (h *availability) covered() bool {
	for k, a := range h.artifacts {
		all := fullBitfield(len(a.leaves))
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

// missing returns the number of incomplete machines, and the missing share of the bytes of
// all machines.
func (h *availability) missing() (machines int, part float64) {
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

// ports returns the ports with a listener on all addresses of a host. Go listens on IPv6.
func (h *host) ports() (list []int) {
	inNamespace(h.ns, func() error {
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

// A stop is the state when the publisher was stopped.
type stop struct {
	why     string
	after   time.Duration
	copies  float64
	lacking int     // incomplete machines
	part    float64 // missing share of the bytes of all machines
}

// words describes the stop. last is the time when the last machine was complete.
func (s *stop) words(last time.Duration) string {
	if s == nil {
		return "publisher not stopped: all machines were complete before"
	}
	return fmt.Sprintf("publisher stopped after %.2f s and %.3f copies, %s; %d machines were incomplete, missing share %.2f%% on average; all complete %.2f s later",
		s.after.Seconds(), s.copies, s.why, s.lacking, 100*s.part, (last - s.after).Seconds())
}
