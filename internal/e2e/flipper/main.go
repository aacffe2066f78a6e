// Command flipper is a hostile LAN peer of the end-to-end tests: it announces itself by
// mDNS, answers as the honest publisher behind it does, and flips one byte of each block
// that it was told to, alone or in a run. It prints its peer ID when it serves.
//
//	flipper LISTEN-MULTIADDR http://HONEST-PUBLISHER CID …
//	flipper LISTEN-MULTIADDR says TEXT
//
// In the second form it has no publisher behind it and answers every request with the text.
package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"path"
	"strings"

	"github.com/ipfs/go-cid"

	"github.com/phaseboot/phaseboot/internal/p2p"
)

func main() {
	err := run(os.Args[1], os.Args[2], os.Args[3:])
	fmt.Fprintln(os.Stderr, "flipper:", err)
	os.Exit(1)
}

func run(listen, honest string, more []string) error {
	answer := says(more[0])
	if honest != "says" {
		var err error
		if answer, err = flips(honest, more); err != nil {
			return err
		}
	}
	addrs, err := p2p.ParseAddrs([]string{listen})
	if err != nil {
		return err
	}
	node, err := p2p.New(context.Background(), p2p.Options{Listen: addrs, MDNS: true})
	if err != nil {
		return err
	}
	if err := node.Serve(answer); err != nil {
		return err
	}
	fmt.Printf("{\"peer\":%q}\n", node.ID())
	select {}
}

// says answers every request with a text.
func says(text string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, text) })
}

// flips answers as a publisher does, but for a byte of each block that is named.
func flips(honest string, cids []string) (http.Handler, error) {
	target, err := url.Parse(honest)
	if err != nil {
		return nil, err
	}
	var flipped []cid.Cid
	for _, s := range cids {
		c, err := cid.Decode(s)
		if err != nil {
			return nil, err
		}
		flipped = append(flipped, c)
	}
	proxy := httputil.NewSingleHostReverseProxy(target)
	proxy.ModifyResponse = func(r *http.Response) error {
		if r.StatusCode != http.StatusOK {
			return nil
		}
		body, err := io.ReadAll(r.Body)
		run := strings.HasPrefix(r.Header.Get("Content-Type"), "application/vnd.ipld.car")
		for _, c := range flipped {
			flip(body, run, r.Request.URL.Path, c)
		}
		r.Body = io.NopCloser(bytes.NewReader(body))
		return err
	}
	return proxy, nil
}

// flip changes a byte of the block c where body is the block, or a run with it: there the
// bytes of its name stand before it.
func flip(body []byte, run bool, url string, c cid.Cid) {
	at := -1
	switch name := bytes.LastIndex(body, c.Bytes()); {
	case run && name >= 0:
		at = name + c.ByteLen()
	case !run && path.Base(url) == c.String():
		at = len(body) / 2
	}
	if at >= 0 && at < len(body) {
		body[at] ^= 1
	}
}
