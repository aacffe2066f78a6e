package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"
)

// A transfer is one fetch from one server.
type transfer struct {
	took           time.Duration
	client, server time.Duration // processor time
}

// A contestant is a row of the table: a server and a client that do the table's work.
type contestant struct {
	name  string
	serve func(ctx context.Context) (*process, readyLine, error)
	fetch func(ctx context.Context, at readyLine, out string) (*process, error)

	server *process
	at     readyLine
	first  transfer // from a server that just started
	runs   []transfer
}

// onePeer measures a cold fetch with verification, and curl, which verifies nothing.
func (t *tool) onePeer(ctx context.Context) error {
	r, err := t.random(ctx, "one", t.size)
	if err != nil {
		return err
	}
	defer os.RemoveAll(r.dir)
	serve := func(addr string, args ...string) func(context.Context) (*process, readyLine, error) {
		return func(ctx context.Context) (*process, readyLine, error) {
			return r.serve(ctx, "", addr, append([]string{"--mdns=false"}, args...)...)
		}
	}
	all := []*contestant{
		{
			name: "nginx, curl, nothing verified",
			serve: func(ctx context.Context) (*process, readyLine, error) {
				p, err := t.nginx(ctx, "", "127.0.0.1:8081", r.dir)
				return p, readyLine{}, err
			},
			fetch: func(ctx context.Context, _ readyLine, out string) (*process, error) {
				return t.curl(ctx, "", nil, "http://127.0.0.1:8081/rootfs", filepath.Join(out, "file"))
			},
		},
		{
			name:  "phase-boot fetch, HTTP",
			serve: serve("127.0.0.1"),
			fetch: func(ctx context.Context, at readyLine, out string) (*process, error) {
				return r.boot(ctx, "", nil, out, "--mode", "private", "--mirror", at.HTTP[0])
			},
		},
		{
			name:  "phase-boot fetch, libp2p stream over TCP",
			serve: serve("127.0.0.2", "--http", "", "--identity", r.path("second.key")),
			fetch: func(ctx context.Context, at readyLine, out string) (*process, error) {
				return r.boot(ctx, "", nil, out, "--mode", "private", "--peer", at.Listen[0])
			},
		},
	}
	for _, c := range all {
		if c.server, c.at, err = c.serve(ctx); err != nil {
			return fmt.Errorf("%s: %w", c.name, err)
		}
		defer c.server.stop()
	}
	for i := range t.runs + 1 {
		for _, c := range all {
			done, err := t.transfer(ctx, c)
			if err != nil {
				return fmt.Errorf("%s: %w", c.name, err)
			}
			if i == 0 {
				c.first = done
			} else {
				c.runs = append(c.runs, done)
			}
		}
	}
	t.printOnePeer(all)
	return nil
}

// transfer runs the client of a contestant once with an empty output folder.
func (t *tool) transfer(ctx context.Context, c *contestant) (transfer, error) {
	out, err := t.outputDir()
	if err != nil {
		return transfer{}, err
	}
	defer os.RemoveAll(out)
	before := c.server.cpuTimeSoFar()
	client, err := c.fetch(ctx, c.at, out)
	if err != nil {
		return transfer{}, err
	}
	if err := client.finish(); err != nil {
		return transfer{}, err
	}
	return transfer{client.ended.Sub(client.begun), client.cpuTime(), c.server.cpuTimeSoFar() - before}, nil
}

func (t *tool) printOnePeer(all []*contestant) {
	gigabytes := float64(t.size) / 1e9
	peer := medianOf(all[0].runs, func(r transfer) time.Duration { return r.took })
	fmt.Printf("  %d MiB to a file, medians of %d, after one run from servers that just started\n", t.size>>20, t.runs)
	fmt.Printf("  %-42s %8s %10s %12s %20s %12s\n", "", "time", "speed", "of nginx", "CPU s/GB both ends", "just started")
	for _, c := range all {
		took := medianOf(c.runs, func(r transfer) time.Duration { return r.took })
		client := medianOf(c.runs, func(r transfer) float64 { return r.client.Seconds() / gigabytes })
		server := medianOf(c.runs, func(r transfer) float64 { return r.server.Seconds() / gigabytes })
		fmt.Printf("  %-42s %6.2f s %5.0f MB/s %9.2f x %12.2f %7.2f %8.2f s\n", c.name, took.Seconds(),
			float64(t.size)/1e6/took.Seconds(), peer.Seconds()/took.Seconds(), client, server, c.first.took.Seconds())
	}
}
