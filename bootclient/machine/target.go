package machine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/phaseboot/phaseboot/bootclient"
	"github.com/phaseboot/phaseboot/manifest"
)

const (
	handOver   = "/phase"     // what the boot role appended to the initramfs
	handOverTo = "/run/phase" // where the release's own system finds it

	rootfsImage = handOver + "/rootfs.squashfs" // stays where it is

	squashMount  = "/squash"
	overlayMount = "/overlay"
	newRoot      = "/newroot"
	nextInit     = "/sbin/init"
)

// targetModules are what the root file system itself needs.
var targetModules = []string{"loop", "squashfs", "overlay"}

// target is PID 1 of the target role: it mounts the release's squashfs under an
// overlay in memory and becomes its init. It returns only on a failure.
func target(out *consoles, story *bootclient.Report) error {
	return runSteps(context.Background(), story, []step{
		{"target", goOn, func(ctx context.Context) (string, error) { return targetWords(ctx, out) }},
		{"modules", goOn, loadTargetModules},
		{"rootfs", fatal, mountRootfs},
		{"hand-over", fatal, func(context.Context) (string, error) { return handOverTo, moveHandOver(handOver, handOverTo) }},
		{"seed", goOn, prepareSeed},
		{"switch root", fatal, func(context.Context) (string, error) { return "", switchRoot(out, story) }},
	})
}

// targetWords names the release that the boot role handed over, and the kernel
// that runs: the proof that it is the release's own.
func targetWords(ctx context.Context, out io.Writer) (string, error) {
	kernel, err := kernelWords(ctx)
	if err != nil {
		return "", err
	}
	var r manifest.Release
	data, err := os.ReadFile(filepath.Join(handOver, "release.json"))
	if err == nil {
		err = json.Unmarshal(data, &r)
	}
	if err != nil {
		return "", fmt.Errorf("%s: no release was handed over: %w", kernel, err)
	}
	fmt.Fprintf(out, "phase-boot: target: release %s (kernel %s)\n", printable(r.Version), kernel)
	return fmt.Sprintf("%s %s/%s", r.Version, r.Channel, r.Arch), nil
}

func loadTargetModules(context.Context) (string, error) {
	dir, err := modulesDir()
	if err != nil {
		return "", err
	}
	m, err := openModules(dir)
	if err != nil {
		return "", err
	}
	err = m.loadList(modulesFile)
	for _, name := range targetModules {
		err = errors.Join(err, m.load(name))
	}
	return fmt.Sprintf("%d loaded", m.count()), err
}

// mountRootfs mounts the squashfs read-only and an overlay in memory over it.
func mountRootfs(context.Context) (string, error) {
	loop, err := attachLoop(rootfsImage)
	if err != nil {
		return "", err
	}
	if _, err := mountAll([]mount{{loop, squashMount, "squashfs", unix.MS_RDONLY | unix.MS_NODEV, ""}}); err != nil {
		return "", squashWords(err)
	}
	if _, err := mountAll([]mount{{"tmpfs", overlayMount, "tmpfs", unix.MS_NODEV, "mode=0755"}}); err != nil {
		return "", err
	}
	upper, work := filepath.Join(overlayMount, "upper"), filepath.Join(overlayMount, "work")
	if err := errors.Join(os.MkdirAll(upper, 0o755), os.MkdirAll(work, 0o755)); err != nil {
		return "", err
	}
	_, err = mountAll([]mount{
		{"overlay", newRoot, "overlay", 0, "lowerdir=" + squashMount + ",upperdir=" + upper + ",workdir=" + work},
	})
	return rootfsImage + " under an overlay in memory", err
}

// squashWords says what mount(2) means by its errors for the release's root filesystem,
// which was verified: what is wrong with it is signed.
func squashWords(err error) error {
	why := "the kernel cannot mount it"
	switch {
	case errors.Is(err, unix.EINVAL), errors.Is(err, unix.EIO):
		why = "it is no squashfs, or a damaged one, or compressed in a way that the release's kernel does not read"
	case errors.Is(err, unix.ENODEV):
		why = "the release's kernel or initramfs lacks the module squashfs"
	}
	return fmt.Errorf("the root filesystem of the release: %s: %w; its publisher must sign a release with another rootfs", why, err)
}

// attachLoop makes a file a read-only block device (loop(4)).
func attachLoop(file string) (string, error) {
	backing, err := os.Open(file)
	if err != nil {
		return "", fmt.Errorf("%w; was the release signed with --rootfs?", err)
	}
	defer backing.Close()
	control, err := os.OpenFile("/dev/loop-control", os.O_RDWR, 0)
	if err != nil {
		return "", fmt.Errorf("loop: %w; the initramfs needs the module loop", err)
	}
	defer control.Close()
	n, err := unix.IoctlRetInt(int(control.Fd()), unix.LOOP_CTL_GET_FREE)
	if err != nil {
		return "", fmt.Errorf("loop: %w", err)
	}
	path := fmt.Sprintf("/dev/loop%d", n)
	device, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return "", fmt.Errorf("loop: %w", err)
	}
	defer device.Close()
	config := unix.LoopConfig{Fd: uint32(backing.Fd()), Info: unix.LoopInfo64{Flags: unix.LO_FLAGS_READ_ONLY}}
	if err := unix.IoctlLoopConfigure(int(device.Fd()), &config); err != nil {
		return "", fmt.Errorf("loop %s: %w", path, err)
	}
	return path, nil
}

// moveHandOver takes the files from the initramfs to a folder of /run, which the next
// root keeps. The squashfs stays where the loop device has it.
func moveHandOver(from, to string) error {
	return filepath.WalkDir(from, func(path string, d fs.DirEntry, err error) error {
		if err != nil || path == filepath.Join(from, filepath.Base(rootfsImage)) {
			return err
		}
		name, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		if d.IsDir() {
			return os.MkdirAll(filepath.Join(to, name), 0o755)
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		return moveFile(path, filepath.Join(to, name), info.Mode().Perm())
	})
}

// moveFile copies a file to another file system and removes the old one.
func moveFile(from, to string, mode os.FileMode) error {
	src, err := os.Open(from)
	if err != nil {
		return err
	}
	defer src.Close()
	dst, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, mode)
	if err != nil {
		return err
	}
	if _, err := io.Copy(dst, src); err != nil {
		return errors.Join(err, dst.Close())
	}
	return errors.Join(dst.Close(), os.Remove(from))
}
