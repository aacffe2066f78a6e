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

// A contestant does the same work as the others of its table.
type contestant struct {
	name string
	run  func(ctx context.Context) (transfer, error)
	runs []transfer
}

// onePeer races a cold fetch, verified, against curl, which verifies nothing.
func (t *tool) onePeer(ctx context.Context) error {
	r, err := t.random(ctx, "one", t.size)
	if err != nil {
		return err
	}
	defer os.RemoveAll(r.dir)
	serve := func(args ...string) func(context.Context) (*process, readyLine, error) {
		return func(ctx context.Context) (*process, readyLine, error) {
			return r.serve(ctx, "", "127.0.0.1", append([]string{"--mdns=false"}, args...)...)
		}
	}
	all := []*contestant{
		{name: "nginx, curl, nothing verified", run: func(ctx context.Context) (transfer, error) {
			return t.transfer(ctx, func(ctx context.Context) (*process, readyLine, error) {
				p, err := t.nginx(ctx, "", "127.0.0.1:8081", r.dir)
				return p, readyLine{}, err
			}, func(ctx context.Context, _ readyLine, out string) (*process, error) {
				return t.curl(ctx, "", nil, "http://127.0.0.1:8081/rootfs", filepath.Join(out, "file"))
			})
		}},
		{name: "phase-boot fetch, HTTP", run: func(ctx context.Context) (transfer, error) {
			return t.transfer(ctx, serve(), func(ctx context.Context, at readyLine, out string) (*process, error) {
				return r.boot(ctx, "", nil, out, "--mode", "private", "--mirror", at.HTTP[0])
			})
		}},
		{name: "phase-boot fetch, libp2p stream over TCP", run: func(ctx context.Context) (transfer, error) {
			return t.transfer(ctx, serve("--http", ""), func(ctx context.Context, at readyLine, out string) (*process, error) {
				return r.boot(ctx, "", nil, out, "--mode", "private", "--peer", at.Listen[0])
			})
		}},
	}
	for range t.runs {
		for _, c := range all {
			done, err := c.run(ctx)
			if err != nil {
				return fmt.Errorf("%s: %w", c.name, err)
			}
			c.runs = append(c.runs, done)
		}
	}
	t.raced(all)
	return nil
}

// transfer runs one client against a server of its own.
func (t *tool) transfer(ctx context.Context, serve func(context.Context) (*process, readyLine, error), fetch func(context.Context, readyLine, string) (*process, error)) (transfer, error) {
	server, at, err := serve(ctx)
	if err != nil {
		return transfer{}, err
	}
	defer server.stop()
	out, err := t.fetched()
	if err != nil {
		return transfer{}, err
	}
	defer os.RemoveAll(out)
	before := server.spending()
	client, err := fetch(ctx, at, out)
	if err != nil {
		return transfer{}, err
	}
	if err := client.finish(); err != nil {
		return transfer{}, err
	}
	return transfer{client.ended.Sub(client.begun), client.spent(), server.spending() - before}, nil
}

func (t *tool) raced(all []*contestant) {
	gigabytes := float64(t.size) / 1e9
	peer := of(all[0].runs, func(r transfer) time.Duration { return r.took })
	fmt.Printf("  %d MiB to a file, medians of %d\n", t.size>>20, t.runs)
	fmt.Printf("  %-42s %8s %10s %12s %20s\n", "", "time", "speed", "of nginx", "CPU s/GB both ends")
	for _, c := range all {
		took := of(c.runs, func(r transfer) time.Duration { return r.took })
		client := of(c.runs, func(r transfer) float64 { return seconds(r.client) / gigabytes })
		server := of(c.runs, func(r transfer) float64 { return seconds(r.server) / gigabytes })
		fmt.Printf("  %-42s %6.2f s %5.0f MB/s %9.2f x %12.2f %7.2f\n", c.name, seconds(took),
			float64(t.size)/1e6/seconds(took), seconds(peer)/seconds(took), client, server)
	}
}
