package main

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
)

// A repository with its keys, its store and its releases, below one folder.
type repository struct {
	bin, dir string
}

// newRepository makes keys and an empty repository.
func (t *tool) newRepository(ctx context.Context, name string) (*repository, error) {
	r := &repository{bin: t.bin, dir: t.path(name)}
	if err := os.MkdirAll(r.path("keys"), 0o755); err != nil {
		return nil, err
	}
	for _, key := range []string{"root", "release", "online", "ipns"} {
		if err := r.sign(ctx, "key", "generate", "--no-passphrase", "--out", r.path("keys", key)); err != nil {
			return nil, err
		}
	}
	return r, r.sign(ctx, "init", "--repo", r.path("repo"), "--root-key", r.path("keys/root"), "--root-threshold", "1",
		"--release-key", r.path("keys/release.pub"), "--release-threshold", "1", "--online-key", r.path("keys/online.pub"),
		"--ipns-key", r.path("keys/ipns.pub"), "--channel", "stable", "--arch", "x86_64")
}

// random makes a repository with one release: a small kernel and initramfs, and a root
// filesystem of size random bytes, which nothing can compress.
func (t *tool) random(ctx context.Context, name string, size int64) (*repository, error) {
	r, err := t.newRepository(ctx, name)
	if err != nil {
		return nil, err
	}
	if err := writeRandom(r.path("rootfs"), size); err != nil {
		return nil, err
	}
	return r, r.publish(ctx, "1", r.path("rootfs"))
}

// publish signs a release with a root filesystem and adds it to the store.
func (r *repository) publish(ctx context.Context, version, rootfs string) error {
	dir := r.path("artifacts-" + version)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	for name, size := range map[string]int64{"kernel": 64 << 10, "initramfs": 192 << 10} {
		if err := writeRandom(filepath.Join(dir, name), size); err != nil {
			return err
		}
	}
	if err := os.Symlink(rootfs, filepath.Join(dir, "rootfs")); err != nil {
		return err
	}
	file := r.path("release-" + version + ".json")
	if err := r.sign(ctx, "release", "--unchecked", "--repo", r.path("repo"), "--channel", "stable", "--arch", "x86_64", "--release", version,
		"--kernel", dir+"/kernel", "--initramfs", dir+"/initramfs", "--rootfs", dir+"/rootfs", "--key", r.path("keys/release"), "--out", file); err != nil {
		return err
	}
	_, err := output(ctx, filepath.Join(r.bin, "phase-publish"), "add", "--store", r.path("store"), "--repo", r.path("repo"),
		"--artifacts", dir, "--online-key", r.path("keys/online"), file)
	return err
}

func (r *repository) path(elem ...string) string {
	return filepath.Join(append([]string{r.dir}, elem...)...)
}

func (r *repository) sign(ctx context.Context, args ...string) error {
	_, err := output(ctx, filepath.Join(r.bin, "phase-sign"), args...)
	return err
}

// serve starts a publisher at an address in a namespace, with more arguments, and waits until
// it serves.
func (r *repository) serve(ctx context.Context, ns, addr string, more ...string) (*process, readyLine, error) {
	p, err := start(ctx, ns, nil, filepath.Join(r.bin, "phase-publish"), append([]string{
		"serve", "--store", r.path("store"), "--repo", r.path("repo"), "--online-key", r.path("keys/online"), "--ipns-key", r.path("keys/ipns"),
		"--http", addr + ":8080", "--listen", "/ip4/" + addr + "/tcp/4001", "--dht", "off",
	}, more...)...)
	if err != nil {
		return nil, readyLine{}, err
	}
	ready, err := p.ready()
	if err != nil {
		p.stop()
	}
	return p, ready, err
}

// boot starts phase-boot fetch in a namespace.
func (r *repository) boot(ctx context.Context, ns string, g *barrier, out string, more ...string) (*process, error) {
	return start(ctx, ns, g, filepath.Join(r.bin, "phase-boot"), append([]string{
		"fetch", "--root", r.path("repo/root.json"), "--channel", "stable", "--arch", "x86_64", "--out", out,
	}, more...)...)
}

// artifact returns the CID and the size of a file of the first release.
func (r *repository) artifact(ctx context.Context, name string) (root string, size int64, err error) {
	file := r.path("artifacts-1", name)
	out, err := output(ctx, filepath.Join(r.bin, "phase-sign"), "cid", file)
	if err != nil {
		return "", 0, err
	}
	info, err := os.Stat(file)
	if err != nil {
		return "", 0, err
	}
	root, _, _ = strings.Cut(strings.TrimSpace(string(out)), " ")
	return root, info.Size(), nil
}

func writeRandom(path string, n int64) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	src := rand.NewChaCha8([32]byte([]byte(fmt.Sprintf("%-32.32s", filepath.Base(path)))))
	if _, err := io.CopyBuffer(f, io.LimitReader(src, n), make([]byte, 1<<20)); err != nil {
		f.Close()
		return err
	}
	return f.Close()
}
