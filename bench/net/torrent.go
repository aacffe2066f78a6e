package main

import (
	"bytes"
	"context"
	"crypto/sha1"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"sync"
)

const pieceSize = 256 << 10

// writeTorrent writes the metainfo file of one file (BEP 3).
func writeTorrent(path, announce, file string) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	var pieces bytes.Buffer
	var size int64
	for piece := make([]byte, pieceSize); ; {
		n, err := io.ReadFull(f, piece)
		if n > 0 {
			sum := sha1.Sum(piece[:n])
			pieces.Write(sum[:])
			size += int64(n)
		}
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			break
		} else if err != nil {
			return err
		}
	}
	name := filepath.Base(file)
	return os.WriteFile(path, fmt.Appendf(nil, "d8:announce%d:%s4:infod6:lengthi%de4:name%d:%s12:piece lengthi%de6:pieces%d:%see",
		len(announce), announce, size, len(name), name, pieceSize, pieces.Len(), pieces.Bytes()), 0o644)
}

// tracker is a BitTorrent tracker (BEP 3, BEP 23). It answers an announce with all other
// peers, and prints "announced" for each new peer.
func tracker(ctx context.Context, args []string) error {
	if len(args) != 1 {
		return errors.New("usage: net tracker HOST:PORT")
	}
	var mu sync.Mutex
	peers := map[netip.AddrPort]bool{}
	s := &http.Server{Addr: args[0], Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		from, err := netip.ParseAddrPort(r.RemoteAddr)
		port, err2 := strconv.ParseUint(r.URL.Query().Get("port"), 10, 16)
		if err != nil || err2 != nil {
			http.Error(w, "no port", http.StatusBadRequest)
			return
		}
		mu.Lock()
		defer mu.Unlock()
		self := netip.AddrPortFrom(from.Addr().Unmap(), uint16(port))
		var others []byte
		for p := range peers {
			if p != self {
				addr := p.Addr().As4()
				others = append(append(others, addr[:]...), byte(p.Port()>>8), byte(p.Port()))
			}
		}
		if !peers[self] {
			peers[self] = true
			fmt.Println("announced", self)
		}
		fmt.Fprintf(w, "d8:intervali3e12:min intervali1e5:peers%d:%se", len(others), others)
	})}
	context.AfterFunc(ctx, func() { s.Close() })
	if err := s.ListenAndServe(); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}
