package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
)

// members are what one connection of a crowd may do until ctx ends. path is that of a
// block.
var members = map[string]func(ctx context.Context, c net.Conn, path string) error{
	"idle": func(ctx context.Context, c net.Conn, _ string) error {
		_, err := io.Copy(io.Discard, c) // until it is shown the door
		return errors.Join(io.EOF, err)
	},
	"a block a second": func(ctx context.Context, c net.Conn, path string) error {
		for r := bufio.NewReader(c); ; time.Sleep(time.Second) {
			fmt.Fprintf(c, "GET %s HTTP/1.1\r\nHost: x\r\n\r\n", path)
			resp, err := http.ReadResponse(r, nil)
			if err != nil {
				return err
			}
			if _, err := io.Copy(io.Discard, resp.Body); err != nil {
				return err
			}
		}
	},
	"one byte of a body a second": func(ctx context.Context, c net.Conn, path string) error {
		fmt.Fprintf(c, "GET %s HTTP/1.1\r\nHost: x\r\n\r\n", path)
		return trickle(func(b []byte) (int, error) { return c.Read(b) })
	},
	"one byte of a header a second": func(ctx context.Context, c net.Conn, _ string) error {
		fmt.Fprint(c, "GET / HTTP/1.1\r\nX: ")
		return trickle(c.Write)
	},
	"endless headers": func(ctx context.Context, c net.Conn, _ string) error {
		fmt.Fprint(c, "GET / HTTP/1.1\r\n")
		for {
			if _, err := fmt.Fprintf(c, "X-%d: %01000d\r\n", time.Now().UnixNano(), 0); err != nil {
				return err
			}
			time.Sleep(10 * time.Millisecond)
		}
	},
}

func trickle(move func([]byte) (int, error)) error {
	for {
		if _, err := move([]byte{'x'}); err != nil {
			return err
		}
		time.Sleep(time.Second)
	}
}

// A gathering is what a crowd says of itself.
type gathering struct {
	Open int64 `json:"open"` // connections that the server let in and has not closed
	Lost int64 `json:"lost"` // refused or closed by the server, each time it happened
}

// crowd opens many connections to a server, from 200 addresses of this host, and keeps
// them busy: one that is lost is opened again after a second. It prints a gathering
// when all have tried, and another when it is asked to stop.
func crowd(ctx context.Context, args []string) error {
	if len(args) != 5 || members[args[0]] == nil {
		return errors.New("usage: benchnet crowd WHAT COUNT HOST:PORT PATH PREFIX")
	}
	count, err := strconv.Atoi(args[1])
	if err != nil {
		return err
	}
	var g gathering
	var tried sync.WaitGroup
	for i := range count {
		tried.Add(1)
		from := &net.TCPAddr{IP: net.ParseIP(fmt.Sprintf("%s%d", args[4], i%crowdAddrs+1))}
		go g.member(ctx, &tried, from, args)
	}
	tried.Wait()
	for range 2 {
		now := gathering{atomic.LoadInt64(&g.Open), atomic.LoadInt64(&g.Lost)}
		if err := json.NewEncoder(os.Stdout).Encode(now); err != nil {
			return err
		}
		<-ctx.Done()
	}
	return nil
}

const crowdAddrs = 200

func (g *gathering) member(ctx context.Context, tried *sync.WaitGroup, from *net.TCPAddr, args []string) {
	first := sync.OnceFunc(tried.Done)
	dialer := net.Dialer{LocalAddr: from, Timeout: 20 * time.Second}
	for ctx.Err() == nil {
		c, err := dialer.DialContext(ctx, "tcp", args[2])
		if err == nil {
			atomic.AddInt64(&g.Open, 1)
			first()
			members[args[0]](ctx, c, args[3])
			c.Close()
			atomic.AddInt64(&g.Open, -1)
		}
		first()
		atomic.AddInt64(&g.Lost, 1)
		time.Sleep(time.Second)
	}
}

// crowded measures what crowds cost a publisher and a good client beside them.
func (t *tool) crowded(ctx context.Context) error {
	r, err := t.random(ctx, "crowd", t.release)
	if err != nil {
		return err
	}
	defer os.RemoveAll(r.dir)
	fmt.Printf("  a good client fetches %.1f MB beside the crowd; the publisher's memory, medians of %d\n", float64(t.release)/1e6, t.runs)
	fmt.Printf("  %-46s %9s %9s %10s %10s %7s\n", "", "inside", "fetch", "resident", "peak", "CPU")
	for _, c := range []struct {
		what, port string
		count      int
	}{
		{"", "", 0},
		{"idle", "8080", t.clients},
		{"idle", "4001", t.clients},
		{"a block a second", "8080", t.clients},
		{"one byte of a body a second", "8080", t.clients},
		{"one byte of a header a second", "8080", t.clients},
		{"endless headers", "8080", t.clients},
	} {
		var runs []visit
		for range t.runs {
			v, err := t.visit(ctx, r, c.what, c.count, c.port)
			if err != nil {
				return fmt.Errorf("%s: %w", c.what, err)
			}
			runs = append(runs, v)
		}
		name := "nobody"
		if c.count > 0 {
			name = fmt.Sprintf("%d x %s, port %s", c.count, c.what, c.port)
		}
		fmt.Printf("  %-46s %9d %7.2f s %6.1f MiB %6.1f MiB %6.0f%%\n", name, of(runs, func(v visit) int64 { return v.inside }),
			seconds(of(runs, func(v visit) time.Duration { return v.took })), float64(of(runs, func(v visit) int64 { return v.resident }))/(1<<20),
			float64(of(runs, func(v visit) int64 { return v.peak }))/(1<<20), 100*of(runs, func(v visit) float64 { return v.busy }))
	}
	return nil
}

// A visit is one fetch beside a crowd.
type visit struct {
	took           time.Duration
	inside         int64 // connections of the crowd, before the fetch
	resident, peak int64 // bytes of the publisher's memory, after it
	busy           float64
}

func (t *tool) visit(ctx context.Context, r *repository, what string, count int, port string) (v visit, err error) {
	l, err := newSegment(ctx, 3)
	if err != nil {
		return v, err
	}
	defer l.remove()
	server, at, err := r.serve(ctx, l.hosts[0].ns, l.hosts[0].addr, "--mdns=false")
	if err != nil {
		return v, err
	}
	defer server.stop()
	if count > 0 {
		p, err := t.gather(ctx, r, l, what, count, port)
		if err != nil {
			return v, err
		}
		defer p.stop()
		line, err := p.out.ReadBytes('\n')
		var g gathering
		if err = errors.Join(err, json.Unmarshal(line, &g)); err != nil {
			return v, fmt.Errorf("crowd: %w: %s", err, p.log.String())
		}
		v.inside = g.Open
	}
	before := processors()
	out, err := t.fetched()
	if err != nil {
		return v, err
	}
	defer os.RemoveAll(out)
	p, err := r.boot(ctx, l.hosts[1].ns, nil, filepath.Join(out, "out"), "--mode", "private", "--mirror", at.HTTP[0])
	if err != nil {
		return v, err
	}
	if err := p.finish(); err != nil {
		return v, err
	}
	v.took, v.busy = p.ended.Sub(p.begun), processors().since(before)
	v.resident, v.peak = server.memory("VmRSS"), server.memory("VmHWM")
	return v, nil
}

// gather lets a crowd come, to a port of the first host, from the last.
func (t *tool) gather(ctx context.Context, r *repository, l *segment, what string, count int, port string) (*process, error) {
	home := l.hosts[len(l.hosts)-1]
	for i := range crowdAddrs {
		if err := ips(ctx, fmt.Sprintf("-n %s addr add 10.66.1.%d/16 dev eth0", home.ns, i+1)); err != nil {
			return nil, err
		}
	}
	block, err := r.leaf(ctx)
	if err != nil {
		return nil, err
	}
	return start(ctx, home.ns, nil, t.self, "crowd", what, strconv.Itoa(count), l.hosts[0].addr+":"+port, "/ipfs/"+block+"?format=raw", "10.66.1.")
}
