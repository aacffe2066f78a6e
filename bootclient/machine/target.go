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
	"time"

	"golang.org/x/sys/unix"

	"github.com/phaseboot/phaseboot/bootclient/report"
	"github.com/phaseboot/phaseboot/manifest"
)

const (
	archiveDir = "/phase"     // files that the boot role appended to the initramfs
	runDir     = "/run/phase" // where the target's system finds them

	rootfsImage = archiveDir + "/rootfs.squashfs" // not moved to runDir

	squashMount  = "/squash"
	overlayMount = "/overlay"
	newRoot      = "/newroot"
	nextInit     = "/sbin/init"
)

// targetModules are the modules that mounting the root filesystem needs.
var targetModules = []string{"loop", "squashfs", "overlay"}

// A targetBoot is what the steps of the target share.
type targetBoot struct {
	newDisk      chan struct{} // signals a new block device
	programBound bool          // seedProgram is there
	cacheMounted bool          // the cache partition is at confirmDir, for the blessing
}

// target is PID 1 of the target role: it mounts the release's squashfs under an overlay in memory
// and replaces itself by its init. It returns only on an error.
func target(out *consoles, rep *report.Report) error {
	t := &targetBoot{newDisk: make(chan struct{}, 1)}
	return runSteps(context.Background(), rep, []step{
		{"clock", optional, bootClock}, // this kernel has read the RTC again
		{"target", optional, func(ctx context.Context) (string, error) { return announceRelease(ctx, out) }},
		{"modules", optional, t.modules},
		{"rootfs", required, mountRootfs},
		{"hand-over", required, func(context.Context) (string, error) { return runDir, moveHandOver(archiveDir, runDir) }},
		{"target network", optional, placeNetwork},
		{"settings", optional, placeSettings},
		{"last start", optional, t.confirmStart}, // before the cache partition is mounted read-only
		{"private", optional, keepPrivate},
		{"next release", optional, t.prepareNext}, // before that too
		{"seed", optional, t.prepareSeed},
		{"boot report", optional, t.prepareReport},
		{"report", optional, func(context.Context) (string, error) {
			path := filepath.Join(runDir, reportName)
			return path, finishReport(path, rep, time.Now(), uptime())
		}},
		{"switch root", required, func(context.Context) (string, error) { return "", switchRoot(out, rep) }},
	})
}

// announceRelease prints the release that the boot role handed over and the running kernel. The
// line shows that the jump into the release's kernel worked.
func announceRelease(ctx context.Context, out io.Writer) (string, error) {
	kernel, err := kernelVersion(ctx)
	if err != nil {
		return "", err
	}
	var r manifest.Release
	data, err := os.ReadFile(filepath.Join(archiveDir, "release.json"))
	if err == nil {
		err = json.Unmarshal(data, &r)
	}
	if err != nil {
		return "", fmt.Errorf("%s: no release was handed over: %w", kernel, err)
	}
	fmt.Fprintf(out, "phase-boot: target: release %s (kernel %s)\n", report.Printable(r.Version), kernel)
	return fmt.Sprintf("%s %s/%s", r.Version, r.Channel, r.Arch), nil
}

// modules loads the listed modules and the drivers of the machine's devices. Those of devices that appear
// later, on USB, are loaded until the target switches the root; then it is up to its system.
func (t *targetBoot) modules(ctx context.Context) (string, error) {
	m, err := openKernelModules()
	if err != nil {
		return "", err
	}
	err = m.loadList(modulesFile)
	for _, name := range targetModules {
		err = errors.Join(err, m.load(name))
	}
	err = errors.Join(err, m.hotplug(ctx, t.newDisk))
	m.coldplug("/sys")
	return fmt.Sprintf("%d loaded", m.count()), err
}

// mountRootfs mounts the squashfs read-only and an overlay in memory over it.
func mountRootfs(context.Context) (string, error) {
	loop, err := attachLoop(rootfsImage)
	if err != nil {
		return "", err
	}
	if _, err := mountAll([]mount{{loop, squashMount, "squashfs", unix.MS_RDONLY | unix.MS_NODEV, ""}}); err != nil {
		return "", squashError(err)
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

// squashError explains an error of mount(2) for the release's root filesystem. Its bytes were
// verified, so the fault is in the release.
func squashError(err error) error {
	why := "the kernel cannot mount it"
	switch {
	case errors.Is(err, unix.EINVAL), errors.Is(err, unix.EIO):
		why = "not a squashfs, or damaged, or compressed in a way that the release's kernel cannot read"
	case errors.Is(err, unix.ENODEV):
		why = "the release's kernel or initramfs lacks the module squashfs"
	}
	return fmt.Errorf("root filesystem of the release: %s: %w; its publisher must sign a release with another rootfs", why, err)
}

// attachLoop attaches a file to a free loop device, read-only (loop(4)).
func attachLoop(file string) (string, error) {
	backing, err := os.Open(file)
	if err != nil {
		return "", fmt.Errorf("%w; its publisher must sign the release with --rootfs", err)
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

// moveHandOver moves the files of the initramfs to a folder of /run, which is moved to the next
// root. The squashfs stays, because the loop device has it open.
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

// moveFile copies a file to another file system and removes the original.
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
