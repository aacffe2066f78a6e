package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"

	"github.com/klauspost/compress/zstd"
	"github.com/u-root/u-root/pkg/cpio"
)

const (
	version = "1-bench"
	cmdline = "console=ttyS0,115200"
)

// prepare makes and publishes the releases, and builds an image for each release and client.
func (t *tool) prepare(ctx context.Context) error {
	for _, dir := range []string{"keys", "common"} {
		if err := os.MkdirAll(t.path(dir), 0o755); err != nil {
			return err
		}
	}
	image := filepath.Join(t.bin, "phase-image")
	if err := run(ctx, image, "kernel", "--out", t.path("common/kernel")); err != nil {
		return err
	}
	for _, key := range []string{"root", "release", "online", "ipns"} {
		if err := run(ctx, filepath.Join(t.bin, "phase-sign"), "key", "generate", "--no-passphrase", "--out", t.path("keys", key)); err != nil {
			return err
		}
	}
	for _, name := range t.releases {
		if err := t.makeRelease(ctx, name); err != nil {
			return fmt.Errorf("release %s: %w", name, err)
		}
		for i, client := range t.clients {
			if err := run(ctx, image, "usb", "--root", t.path(name, "repo/root.json"), "--default-mode", "local", "--phase-boot", client, "--cmdline", "efi=debug", "--size", "1G", "--out", t.image(name, i)); err != nil {
				return err
			}
		}
	}
	return nil
}

// image returns the path of the image with a client for a release.
func (t *tool) image(name string, client int) string {
	return t.path(name, fmt.Sprintf("%d.img", client))
}

func (t *tool) makeRelease(ctx context.Context, name string) error {
	art, repo := t.path(name, "artifacts"), t.path(name, "repo")
	if err := os.MkdirAll(art, 0o755); err != nil {
		return err
	}
	if err := os.Link(t.path("common/kernel"), filepath.Join(art, "kernel")); err != nil {
		return err
	}
	if err := t.makeFiles(ctx, name, art); err != nil {
		return err
	}
	sign, publish := filepath.Join(t.bin, "phase-sign"), filepath.Join(t.bin, "phase-publish")
	files := []string{"--kernel", art + "/kernel", "--initramfs", art + "/initramfs"}
	if name != "small" {
		files = append(files, "--rootfs", art+"/rootfs")
	}
	for _, line := range [][]string{
		{
			sign, "init", "--repo", repo, "--root-key", t.path("keys/root"), "--root-threshold", "1", "--release-key", t.path("keys/release.pub"),
			"--release-threshold", "1", "--online-key", t.path("keys/online.pub"), "--ipns-key", t.path("keys/ipns.pub"), "--channel", "stable", "--arch", "x86_64",
		},
		append([]string{
			sign, "release", "--repo", repo, "--channel", "stable", "--arch", "x86_64", "--release", version, "--cmdline", cmdline,
			"--key", t.path("keys/release"), "--out", t.path(name, "release.json"),
		}, files...),
		{
			publish, "add", "--store", t.path(name, "store"), "--repo", repo, "--artifacts", art, "--online-key", t.path("keys/online"), t.path(name, "release.json"),
		},
	} {
		if err := run(ctx, line[0], line[1:]...); err != nil {
			return err
		}
	}
	return nil
}

// makeFiles makes the initramfs and the root filesystem of a release, and the initrd of its direct
// boot.
func (t *tool) makeFiles(ctx context.Context, name, art string) error {
	initramfs, rootfs, initrd := filepath.Join(art, "initramfs"), filepath.Join(art, "rootfs"), t.path(name, "initrd")
	if name != "demo" {
		self, err := selfArchive()
		if err != nil {
			return err
		}
		if err := writeBoth(self, initramfs, initrd); err != nil || name == "small" {
			return err
		}
		return t.randomRootfs(ctx, rootfs)
	}
	if err := run(ctx, filepath.Join(t.bin, "phase-image"), "initramfs", "--role", "target", "--out", initramfs); err != nil {
		return err
	}
	if err := run(ctx, filepath.Join(t.bin, "phase-image"), "rootfs", "--out", rootfs); err != nil {
		return err
	}
	return handedOver(initramfs, rootfs, initrd)
}

// randomSize is the size of the root filesystem of the release large, in bytes.
const randomSize = 285 << 20

// randomRootfs makes a root filesystem with one file that cannot be compressed. The release does not mount it.
func (t *tool) randomRootfs(ctx context.Context, rootfs string) error {
	tree := t.path("random")
	if err := os.Mkdir(tree, 0o755); err != nil {
		return err
	}
	defer os.RemoveAll(tree)
	f, err := os.Create(filepath.Join(tree, "file"))
	if err != nil {
		return err
	}
	_, err = io.CopyN(f, rand.NewChaCha8([32]byte{}), randomSize)
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	return run(ctx, "mksquashfs", tree, rootfs, "-noD", "-noappend", "-quiet", "-no-progress")
}

// selfArchive returns an initramfs whose /init is this program.
func selfArchive() ([]byte, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	program, err := os.ReadFile(self)
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer
	z, err := zstd.NewWriter(&out)
	if err != nil {
		return nil, err
	}
	err = archive(z, cpio.Directory("dev", 0o755), cpio.CharDev("dev/console", 0o600, 5, 1), cpio.StaticFile("init", string(program), 0o755))
	if err == nil {
		err = z.Close()
	}
	return out.Bytes(), err
}

// handedOver writes the initrd that phase-boot hands over: the initramfs, and an archive with the
// root filesystem.
func handedOver(initramfs, rootfs, initrd string) error {
	first, err := os.ReadFile(initramfs)
	if err != nil {
		return err
	}
	second, err := os.ReadFile(rootfs)
	if err != nil {
		return err
	}
	out := bytes.NewBuffer(slices.Concat(first, make([]byte, -len(first)&3)))
	if err := archive(out, cpio.Directory("phase", 0o755), cpio.StaticFile("phase/release.json", `{"Version":"`+version+`"}`, 0o644), cpio.StaticFile("phase/rootfs.squashfs", string(second), 0o644)); err != nil {
		return err
	}
	return os.WriteFile(initrd, out.Bytes(), 0o644)
}

func archive(w io.Writer, records ...cpio.Record) error {
	out := cpio.Newc.Writer(w)
	for i, r := range append(records, cpio.TrailerRecord) {
		r.Ino = uint64(i + 1)
		if err := out.WriteRecord(r); err != nil {
			return err
		}
	}
	return nil
}

func writeBoth(data []byte, paths ...string) error {
	for _, p := range paths {
		if err := os.WriteFile(p, data, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// run runs a command. Its output is in the error.
func run(ctx context.Context, name string, args ...string) error {
	if out, err := exec.CommandContext(ctx, name, args...).CombinedOutput(); err != nil {
		return fmt.Errorf("%s %q: %w: %s", filepath.Base(name), args, err, out)
	}
	return nil
}
