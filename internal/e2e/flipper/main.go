// Command flipper is a hostile LAN peer of the end-to-end tests:
//
//	flipper LISTEN-MULTIADDR http://PUBLISHER CID …
//	flipper LISTEN-MULTIADDR text TEXT
//
// It announces itself by mDNS and prints its peer ID when it serves. In the first form it is
// a reverse proxy of a publisher, and changes one byte of each named block, in a response
// with that block and in a CAR. In the second form it answers every request with the text.
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

func run(listen, publisher string, more []string) error {
	answer := answerText(more[0])
	if publisher != "text" {
		var err error
		if answer, err = flipBytes(publisher, more); err != nil {
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

// answerText answers every request with a text.
func answerText(text string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, text) })
}

// flipBytes forwards requests to a publisher and changes one byte of each named block.
func flipBytes(publisher string, cids []string) (http.Handler, error) {
	target, err := url.Parse(publisher)
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

// flip changes one byte of block c if body is the block, or a CAR (run) with it: in a CAR the
// bytes of its CID precede it.
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
