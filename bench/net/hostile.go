package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
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
	"github.com/phaseboot/phaseboot/internal/p2p"
)

// attacks are the ways in which a hostile machine answers requests for leaves of artifacts.
// It serves valid metadata and inner nodes, because otherwise clients would ban it before
// they request leaves. Its bitfield claims every leaf.
var attacks = map[string]func(w http.ResponseWriter, r *http.Request, valid http.Handler){
	"wrong": func(w http.ResponseWriter, r *http.Request, valid http.Handler) {
		valid.ServeHTTP(&flipped{w}, r)
	},
	"truncated": func(w http.ResponseWriter, r *http.Request, valid http.Handler) {
		valid.ServeHTTP(&short{ResponseWriter: w}, r)
	},
	"endless": func(w http.ResponseWriter, r *http.Request, _ http.Handler) {
		for block := make([]byte, 64<<10); r.Context().Err() == nil; {
			if _, err := w.Write(block); err != nil {
				return
			}
		}
	},
	"slow": func(w http.ResponseWriter, r *http.Request, _ http.Handler) {
		w.Header().Set("Content-Length", "65536")
		for every := time.Tick(time.Second); r.Context().Err() == nil; {
			if _, err := w.Write([]byte{0}); err != nil || http.NewResponseController(w).Flush() != nil {
				return
			}
			select {
			case <-every:
			case <-r.Context().Done():
			}
		}
	},
	"silent": func(_ http.ResponseWriter, r *http.Request, _ http.Handler) { <-r.Context().Done() },
}

// flipped inverts one bit in every write of 256 bytes or more.
type flipped struct{ http.ResponseWriter }

func (f *flipped) Write(p []byte) (int, error) {
	if len(p) >= 256 {
		p = bytes.Clone(p)
		p[len(p)/2] ^= 1
	}
	return f.ResponseWriter.Write(p)
}

// short sends 100 bytes of a body and closes the connection.
type short struct {
	http.ResponseWriter
	sent int
}

func (s *short) Write(p []byte) (int, error) {
	if s.sent += len(p); s.sent > 100 {
		s.ResponseWriter.Write(p[:min(len(p), 100)])
		http.NewResponseController(s.ResponseWriter).Flush()
		panic(http.ErrAbortHandler)
	}
	return s.ResponseWriter.Write(p)
}

// hostile runs a hostile machine with the same gateway, mDNS and bitfields as a valid one. It
// prints a ready line like a publisher.
func hostile(ctx context.Context, args []string) error {
	if len(args) != 6 || attacks[args[0]] == nil {
		return errors.New("usage: net hostile ATTACK IP STORE PUBLISHER ROOT SIZE")
	}
	store, err := pack.Open(args[2], pack.Options{ReadOnly: true})
	if err != nil {
		return err
	}
	defer store.Close()
	root, err := cas.ParseCID(args[4])
	if err != nil {
		return err
	}
	size, err := strconv.ParseInt(args[5], 10, 64)
	if err != nil {
		return err
	}
	leaves, err := cas.Leaves(ctx, store, root, size)
	if err != nil {
		return err
	}
	proxy := newProxy(store, args[3])
	handler := http.NewServeMux()
	handler.HandleFunc("/have/", func(w http.ResponseWriter, r *http.Request) {
		if strings.TrimPrefix(r.URL.Path, "/have/") != root.String() {
			http.NotFound(w, r)
			return
		}
		w.Header().Set("Etag", `"all"`)
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(fullBitfield(len(leaves))))
	})
	handler.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		if proxy.isData(r) {
			attacks[args[0]](w, r, proxy.valid)
			return
		}
		proxy.valid.ServeHTTP(w, r)
	})
	return serveHostile(ctx, args[1], handler)
}

// fullBitfield returns the bitfield of n leaves that are all available.
func fullBitfield(n int) []byte {
	bits := bytes.Repeat([]byte{0xff}, (n+7)/8)
	if n%8 != 0 {
		bits[len(bits)-1] <<= 8 - n%8
	}
	return bits
}

func serveHostile(ctx context.Context, ip string, handler http.Handler) error {
	l, err := net.Listen("tcp", ip+":8080")
	if err != nil {
		return err
	}
	listen, err := p2p.ParseAddrs([]string{"/ip4/" + ip + "/tcp/4001"})
	if err != nil {
		return err
	}
	node, err := p2p.New(ctx, p2p.Options{Listen: listen, MDNS: true, HTTP: p2p.ListenerAddrs(l.Addr())})
	if err != nil {
		return err
	}
	defer node.Close()
	if err := node.Serve(handler); err != nil {
		return err
	}
	s := &http.Server{Handler: handler}
	context.AfterFunc(ctx, func() { s.Close() })
	ready := readyLine{Peer: node.ID().String(), HTTP: []string{"http://" + l.Addr().String()}, Listen: []string{}}
	for _, a := range node.Addrs() {
		ready.Listen = append(ready.Listen, a.String())
	}
	if err := json.NewEncoder(os.Stdout).Encode(ready); err != nil {
		return err
	}
	if err := s.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// A proxy answers like the publisher: artifacts from a store, all else from the publisher,
// cached.
type proxy struct {
	valid     http.Handler
	store     *pack.Store
	publisher *gateway.Client

	mu    sync.Mutex
	cache map[string][]byte
}

func newProxy(store *pack.Store, publisher string) *proxy {
	f := &proxy{store: store, publisher: &gateway.Client{Base: publisher}, cache: map[string][]byte{}}
	f.valid = gateway.Handler(gateway.Options{Source: f, IPNS: func(ctx context.Context, name string) ([]byte, error) {
		return f.cached(name, func() ([]byte, error) { return f.publisher.IPNS(ctx, name) })
	}})
	return f
}

// Block reads a block from the store, or else from the publisher.
func (f *proxy) Block(ctx context.Context, c cid.Cid) ([]byte, error) {
	if data, err := f.store.Block(ctx, c); err == nil {
		return data, nil
	}
	return f.cached(c.String(), func() ([]byte, error) { return f.publisher.Block(ctx, c) })
}

func (f *proxy) cached(key string, ask func() ([]byte, error)) ([]byte, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if data := f.cache[key]; data != nil {
		return data, nil
	}
	data, err := ask()
	if err == nil {
		f.cache[key] = data
	}
	return data, err
}

// isData reports whether a request is for leaves of an artifact, and not for metadata or
// inner nodes.
func (f *proxy) isData(r *http.Request) bool {
	first, _, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/ipfs/"), "/")
	c, err := cas.ParseCID(first)
	if err != nil {
		return false
	}
	known, err := f.store.Has(r.Context(), c)
	return err == nil && known && (c.Prefix().Codec == cid.Raw || r.URL.Query().Get("format") == "car")
}

// startHostile starts a hostile machine that forwards to a running publisher, and waits until
// it serves.
func (r *repository) startHostile(ctx context.Context, self, publisher string, h *host, attack string) (*process, error) {
	root, size, err := r.artifact(ctx, "rootfs")
	if err != nil {
		return nil, err
	}
	p, err := start(ctx, h.ns, nil, self, "hostile", attack, h.addr, r.path("store"), publisher, root, strconv.FormatInt(size, 10))
	if err != nil {
		return nil, err
	}
	if _, err := p.ready(); err != nil {
		p.stop()
		return nil, fmt.Errorf("%s: %w", attack, err)
	}
	return p, nil
}
