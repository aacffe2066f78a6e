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
	"sync"
	"time"

	"github.com/ipfs/go-cid"

	"github.com/phaseboot/phaseboot/cas"
)

// An attack is one kind of bad connection. run returns when the publisher closes it.
type attack struct {
	name    string
	streams bool // attack the libp2p port; the good client fetches over streams, each round as a new peer
	run     func(net.Conn, *rig)
}

var attacks = []attack{
	{"none", false, nil},
	{"none, streams", true, nil},
	{"idle connections", false, idle},
	{"IPNS records in a loop", false, records},
	{"random CIDs", false, randomCIDs},
	{"header flood", false, headerFlood},
	{"one header byte a second", false, slowHeader},
	{"endless request body", false, endlessBody},
	{"readers of 10 bytes a second", false, slowReader},
	{"a thousand ranges of a block", false, ranges},
	{"a CAR with every duplicate", false, duplicates},
	{"a CAR of a repetitive file", false, repetitive},
	{"silent at the libp2p port", true, sendNothing},
	{"noise at the libp2p port", true, randomBytes},
}

const (
	perAddress     = 125                   // bad connections from one address
	reconnectPause = 50 * time.Millisecond // pause before a new connection
)

// start keeps n bad connections busy until ctx ends. dialed waits until each has been dialed
// once, done for their end.
func (a attack) start(ctx context.Context, r *rig, n int) (dialed, done func()) {
	if a.run == nil {
		n = 0
	}
	var first, all sync.WaitGroup
	first.Add(n)
	for i := range n {
		all.Go(func() {
			once := sync.OnceFunc(first.Done)
			defer once()
			for ctx.Err() == nil {
				a.once(ctx, r, i/perAddress, once)
				time.Sleep(reconnectPause)
			}
		})
	}
	return first.Wait, all.Wait
}

// once makes one bad connection from the address of its group. It calls dialed when the
// connection is open or has failed.
func (a attack) once(ctx context.Context, r *rig, group int, dialed func()) {
	to := r.addr()
	if a.streams {
		to = r.node()
	}
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 1, byte(group), 1)}, Timeout: 5 * time.Second}
	c, err := d.DialContext(ctx, "tcp", to)
	dialed()
	if err != nil {
		return
	}
	defer context.AfterFunc(ctx, func() { c.Close() })()
	defer c.Close()
	a.run(c, r)
}

// repeat sends requests on one connection, each after the previous response.
func repeat(c net.Conn, request func() string) {
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
			time.Sleep(reconnectPause)
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
	repeat(c, func() string { return request("/ipns/" + r.ready.IPNS + "?format=ipns-record") })
}

func randomCIDs(c net.Conn, _ *rig) {
	repeat(c, func() string {
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
	repeat(c, func() string {
		return request("/ipfs/"+r.rootfs.CID.String()+"?format=raw", "Range: bytes="+strings.Join(list, ","))
	})
}

func duplicates(c net.Conn, r *rig) {
	repeat(c, func() string {
		return request("/ipfs/"+r.zeros.CID.String(), "Accept: application/vnd.ipld.car; version=1; order=dfs; dups=y")
	})
}

func repetitive(c net.Conn, r *rig) {
	repeat(c, func() string { return request("/ipfs/" + r.zeros.CID.String() + "?format=car") })
}

func sendNothing(c net.Conn, _ *rig) { io.Copy(io.Discard, c) }

func randomBytes(c net.Conn, _ *rig) {
	go io.Copy(io.Discard, c)
	noise := make([]byte, 4<<10)
	for {
		rand.Read(noise)
		if _, err := c.Write(noise); err != nil {
			return
		}
	}
}
