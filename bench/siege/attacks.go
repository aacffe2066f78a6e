package main

import (
	"bufio"
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/ipfs/go-cid"

	"github.com/phaseboot/phaseboot/cas"
)

// An attack is what one bad connection does. run returns when the publisher ends it.
type attack struct {
	name    string
	streams bool // at the libp2p port; the good client fetches over streams, as a new peer each time
	run     func(net.Conn, *rig)
}

var attacks = []attack{
	{"none", false, nil},
	{"none, streams", true, nil},
	{"idle connections", false, idle},
	{"records, all the time", false, records},
	{"random CIDs", false, strangers},
	{"header flood", false, headerFlood},
	{"a header a byte a second", false, slowHeader},
	{"endless request body", false, endlessBody},
	{"readers of 10 bytes a second", false, slowReader},
	{"a thousand ranges of a block", false, ranges},
	{"a CAR with every duplicate", false, duplicates},
	{"a CAR of a repetitive file", false, repetitive},
	{"silent at the libp2p port", true, silent},
	{"noise at the libp2p port", true, garbage},
}

const (
	perAddress = 125                   // bad connections of one address
	again      = 50 * time.Millisecond // pause before a connection is made anew
)

// storm keeps n bad connections busy until ctx ends.
func (a attack) storm(ctx context.Context, r *rig, n int) (done func()) {
	ended := make(chan struct{}, n)
	for i := range n {
		go func() {
			defer func() { ended <- struct{}{} }()
			for a.run != nil && ctx.Err() == nil {
				a.once(ctx, r, i/perAddress)
				time.Sleep(again)
			}
		}()
	}
	return func() {
		for range n {
			<-ended
		}
	}
}

// once makes one bad connection from an address of its group.
func (a attack) once(ctx context.Context, r *rig, group int) {
	to := r.addr()
	if a.streams {
		to = r.node()
	}
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 1, byte(group), 1)}, Timeout: 5 * time.Second}
	c, err := d.DialContext(ctx, "tcp", to)
	if err != nil {
		return
	}
	defer context.AfterFunc(ctx, func() { c.Close() })()
	defer c.Close()
	a.run(c, r)
}

// ask sends requests on one connection, each when the answer before it is there.
func ask(c net.Conn, request func() string) {
	in := bufio.NewReader(c)
	for {
		if _, err := io.WriteString(c, request()); err != nil {
			return
		}
		resp, err := http.ReadResponse(in, nil)
		if err != nil {
			return
		}
		_, err = io.Copy(io.Discard, resp.Body)
		if resp.Body.Close(); err != nil || resp.Close {
			return
		}
		if resp.StatusCode == http.StatusServiceUnavailable {
			time.Sleep(again)
		}
	}
}

func request(path string, headers ...string) string {
	lines := append([]string{"GET " + path + " HTTP/1.1", "Host: publisher"}, headers...)
	return strings.Join(lines, "\r\n") + "\r\n\r\n"
}

func idle(c net.Conn, r *rig) {
	io.WriteString(c, request("/ipns/"+r.ready.IPNS+"?format=ipns-record"))
	io.Copy(io.Discard, c)
}

func records(c net.Conn, r *rig) {
	ask(c, func() string { return request("/ipns/" + r.ready.IPNS + "?format=ipns-record") })
}

func strangers(c net.Conn, _ *rig) {
	ask(c, func() string {
		name := make([]byte, 32)
		rand.Read(name)
		return request("/ipfs/" + cas.Sum(cid.Raw, name).String() + "?format=raw")
	})
}

func headerFlood(c net.Conn, _ *rig) {
	go io.Copy(io.Discard, c)
	io.WriteString(c, "GET / HTTP/1.1\r\nHost: publisher\r\n")
	for i := 0; ; i++ {
		if _, err := fmt.Fprintf(c, "X-%d: %s\r\n", i, strings.Repeat("a", 1000)); err != nil {
			return
		}
	}
}

func slowHeader(c net.Conn, _ *rig) {
	for _, b := range []byte(request("/" + strings.Repeat("a", 1000))) {
		if _, err := c.Write([]byte{b}); err != nil {
			return
		}
		time.Sleep(time.Second)
	}
}

func endlessBody(c net.Conn, r *rig) {
	go io.Copy(io.Discard, c)
	io.WriteString(c, request("/ipns/"+r.ready.IPNS+"?format=ipns-record", "Transfer-Encoding: chunked"))
	for {
		if _, err := fmt.Fprintf(c, "%x\r\n%s\r\n", 1000, strings.Repeat("a", 1000)); err != nil {
			return
		}
	}
}

func slowReader(c net.Conn, r *rig) {
	c.(*net.TCPConn).SetReadBuffer(4 << 10)
	io.WriteString(c, request("/ipfs/"+r.rootfs.CID.String()+"?format=car"))
	for {
		if _, err := io.ReadFull(c, make([]byte, 10)); err != nil {
			return
		}
		time.Sleep(time.Second)
	}
}

func ranges(c net.Conn, r *rig) {
	var list []string
	for i := range 1000 {
		list = append(list, fmt.Sprintf("%d-%d", 2*i, 2*i))
	}
	ask(c, func() string {
		return request("/ipfs/"+r.rootfs.CID.String()+"?format=raw", "Range: bytes="+strings.Join(list, ","))
	})
}

func duplicates(c net.Conn, r *rig) {
	ask(c, func() string {
		return request("/ipfs/"+r.zeros.CID.String(), "Accept: application/vnd.ipld.car; version=1; order=dfs; dups=y")
	})
}

func repetitive(c net.Conn, r *rig) {
	ask(c, func() string { return request("/ipfs/" + r.zeros.CID.String() + "?format=car") })
}

func silent(c net.Conn, _ *rig) { io.Copy(io.Discard, c) }

func garbage(c net.Conn, _ *rig) {
	go io.Copy(io.Discard, c)
	noise := make([]byte, 4<<10)
	for {
		rand.Read(noise)
		if _, err := c.Write(noise); err != nil {
			return
		}
	}
}
