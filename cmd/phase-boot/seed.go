package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"

	"github.com/phaseboot/phaseboot/bootclient"
	"github.com/phaseboot/phaseboot/bootclient/report"
	"github.com/phaseboot/phaseboot/internal/cli"
	"github.com/phaseboot/phaseboot/internal/p2p"
	"github.com/phaseboot/phaseboot/modes"
)

const seedUsage = `phase-boot seed serves the newest release in a cache to other machines until it is stopped:
over HTTP and libp2p streams, announced as the mode says (mDNS, DHT). It has no key, writes
nothing, and serves only blocks whose hash is correct.

Usage:
  phase-boot seed --root root.json --cache DIR [flags]

Examples:
  phase-boot seed --root root.json --cache ~/.cache/phase-boot
  phase-boot seed --root root.json --cache /cache --mode local --http 192.0.2.7:8080 --json
  phase-boot seed --root root.json --cache /run/phase/cache --artifacts /run/phase

Flags:
`

type seedFlags struct {
	releaseChoice
	artifacts, http string
	listen          []string
	json            bool
}

// seed runs `phase-boot seed`.
func seed(ctx context.Context, args []string) error {
	var f seedFlags
	set := newFlags("phase-boot seed")
	f.define(set)
	set.StringVar(&f.cache, "cache", "", "`DIR` of an earlier phase-boot fetch --cache, or the mounted cache partition of a USB stick")
	set.StringVar(&f.artifacts, "artifacts", "", "`DIR` with kernel, initramfs, rootfs, job/NAME.wasm, to serve blocks that the cache lacks")
	set.StringVar(&f.mode, "mode", modes.Default, "how other machines find this one: `MODE` is "+modeUsage()+"; private is refused: it does not announce")
	set.StringVar(&f.http, "http", "", "`ADDRESS` of the HTTP listener, such as 192.0.2.7:8080 (default: a free port)")
	listVar(set, &f.listen, "listen", "`MULTIADDR` to listen on for peers; may be repeated (default: free ports)")
	set.BoolVar(&f.json, "json", false, "print the addresses as one JSON object on stdout when the server is ready")
	return runVerb(set, args, seedUsage, f.check, func() error { return f.run(ctx) })
}

func (f *seedFlags) check(rest []string) error {
	switch {
	case len(rest) > 0:
		return fmt.Errorf("unexpected argument %.80q", rest[0])
	case f.root == "":
		return errors.New("--root: missing; name the root.json of the repository")
	case f.cache == "":
		return errors.New("--cache: missing; name the folder of an earlier phase-boot fetch --cache")
	}
	return cmp.Or(checkArch(f.arch), bootclient.Config{Bootstrap: f.bootstrap}.Check())
}

func (f *seedFlags) run(ctx context.Context) error {
	mode, err := loadMode(f.mode)
	if err != nil {
		return err
	}
	if !mode.Announce || mode.Proxy != "" {
		return cli.Usagef("mode %s: does not announce; choose a mode that announces", mode.Name)
	}
	listen, err := p2p.ParseAddrs(f.listen)
	if err != nil {
		return cli.Usagef("--listen: %v", err)
	}
	root, err := readRoot(f.root)
	if err != nil {
		return err
	}
	if err := errors.Join(checkFolder("--cache", f.cache), checkFolder("--artifacts", f.artifacts)); err != nil {
		return err
	}
	return bootclient.Seed(ctx, bootclient.Config{
		Root: root, Channel: f.channel, Arch: f.arch, Mode: mode, Cache: f.cache, Artifacts: f.artifacts, HTTP: f.http, Listen: listen, Bootstrap: f.bootstrap,
		Log:   slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelInfo})),
		Ready: f.printReady,
	})
}

// printReady prints the addresses of this machine.
func (f *seedFlags) printReady(r report.Ready) {
	if f.json {
		json.NewEncoder(os.Stdout).Encode(r)
		return
	}
	printServing("seed", r)
}

// printServing prints the release, the peer ID and the HTTP addresses that are served.
func printServing(verb string, r report.Ready) {
	fmt.Fprintf(os.Stderr, "phase-boot %s: serving release %s as peer %s at %s\n", verb, r.Release, r.Peer, strings.Join(r.HTTP, " "))
}
