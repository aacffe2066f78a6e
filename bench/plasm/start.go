package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/phaseboot/phaseboot/plasm"
)

// start measures a run of hello from the start of the command to its end: warm, and cold, which is with the
// program and the job read from the disk. The interpreter runs it, or the stored code of the compiler.
func (b *bench) start(ctx context.Context) error {
	plasmd := []string{filepath.Join(b.bin, "plasmd"), "run", "--no-cache", b.job("hello")}
	compiled := []string{plasmd[0], "run", "--engine", plasm.EngineCompiler, b.job("hello")}
	if _, err := b.command(ctx, compiled); err != nil { // stores the code
		return err
	}
	all := []*contestant{
		b.starter("hello built for the host, warm", []string{filepath.Join(b.dir, "hello")}),
		b.starter("plasmd run hello.wasm, warm", plasmd),
		b.coldStarter("plasmd run hello.wasm, cold", plasmd, plasmd[0], b.job("hello")),
		b.starter("plasmd run hello.wasm, stored code of the compiler, warm", compiled),
	}
	if b.node != nil {
		node := append(b.node[:len(b.node):len(b.node)], b.job("hello"))
		path, err := exec.LookPath("node")
		if err != nil {
			return err
		}
		if path, err = filepath.EvalSymlinks(path); err != nil {
			return err
		}
		all = append(all, b.starter("node's WASI, hello.wasm, warm", node),
			b.coldStarter("node's WASI, hello.wasm, cold", node, path, b.job("hello")))
	}
	if err := race(ctx, b.starts, all); err != nil {
		return err
	}
	return table(fmt.Sprintf("Start: hello, the whole command, %d runs each", b.starts), all)
}

func (b *bench) starter(name string, argv []string) *contestant {
	return &contestant{name: name, run: func(ctx context.Context) (cost, error) { return b.command(ctx, argv) }}
}

// coldStarter is starter for files that are not in the page cache.
func (b *bench) coldStarter(name string, argv []string, files ...string) *contestant {
	return &contestant{name: name, run: func(ctx context.Context) (cost, error) {
		for _, path := range files {
			if err := evict(path); err != nil {
				return cost{}, err
			}
		}
		return b.command(ctx, argv)
	}}
}

// evict removes a file from the page cache.
func evict(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := f.Sync(); err != nil { // pages that are not on the disk stay
		return err
	}
	return unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED)
}
