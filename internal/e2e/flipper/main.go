// Command flipper is a hostile LAN peer of the end-to-end tests: it announces itself by
// mDNS, answers as the honest publisher behind it does, and flips one byte of each block
// that it was told to. It prints its peer ID when it serves.
//
//	flipper LISTEN-MULTIADDR http://HONEST-PUBLISHER CID …
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

	"github.com/phaseboot/phaseboot/internal/p2p"
)

func main() {
	err := run(os.Args[1], os.Args[2], os.Args[3:])
	fmt.Fprintln(os.Stderr, "flipper:", err)
	os.Exit(1)
}

func run(listen, honest string, cids []string) error {
	target, err := url.Parse(honest)
	if err != nil {
		return err
	}
	addrs, err := p2p.ParseAddrs([]string{listen})
	if err != nil {
		return err
	}
	node, err := p2p.New(context.Background(), p2p.Options{Listen: addrs, MDNS: true})
	if err != nil {
		return err
	}
	flipped := make(map[string]bool)
	for _, c := range cids {
		flipped[c] = true
	}
	proxy := httputil.NewSingleHostReverseProxy(target)
	proxy.ModifyResponse = func(r *http.Response) error {
		if !flipped[path.Base(r.Request.URL.Path)] || r.StatusCode != http.StatusOK {
			return nil
		}
		body, err := io.ReadAll(r.Body)
		if err == nil && len(body) > 0 {
			body[len(body)/2] ^= 1
		}
		r.Body = io.NopCloser(bytes.NewReader(body))
		return err
	}
	if err := node.Serve(proxy); err != nil {
		return err
	}
	fmt.Printf("{\"peer\":%q}\n", node.ID())
	select {}
}
