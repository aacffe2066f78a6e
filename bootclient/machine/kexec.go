package machine

import (
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"

	"github.com/phaseboot/phaseboot/bootclient/machine/kexecload"
	"github.com/phaseboot/phaseboot/bootclient/report"
	"github.com/phaseboot/phaseboot/internal/bootfile"
	"github.com/phaseboot/phaseboot/manifest"
)

// Load calls kexec_file_load(2) with the sealed files and the command line of the next kernel, or
// kexec_load(2) on arm64 if the boot kernel has no kexec_file_load or the release has a device tree for this machine. PID 1 makes the jump. free is the
// free memory in bytes: with too little, the load triggers the OOM killer. arch is the machine's
// architecture as channels name it. Load refuses a kernel for another architecture and a truncated
// one, which the system call may accept and which would crash the machine at the jump.
func (p *Payload) Load(cmdline, arch string, free int64) error {
	segments := arch == bootfile.ARM64 && (p.tree != nil || noFileLoad())
	copies := int64(kexecCopies - 1)
	if segments {
		copies = segmentCopies - 1
	}
	need := copies*p.Size() + unpackMemory(p.kernel)
	if err := checkLoadMemory(need, free); err != nil {
		return err
	}
	if err := errors.Join(p.checkKernel(arch), p.checkInitramfs()); err != nil {
		return err
	}
	kernel, err := openedKernel(p.kernel)
	if err != nil {
		return fmt.Errorf("kernel of the release: %w", err)
	}
	if kernel != p.kernel {
		defer kernel.Close()
		if info, err := kernel.Stat(); err == nil { // its memfd is there already
			err = checkLoadMemory(need+copies*info.Size()+unpackMemory(kernel), free-info.Size())
			if err != nil {
				return err
			}
		}
	}
	if segments {
		return segmentsError(kexecload.Load(kexecload.Next{Kernel: kernel, Initrd: p.initrd, Tree: p.tree, Cmdline: cmdline}))
	}
	initrd, flags := int(p.initrd.Fd()), 0
	if info, err := p.initrd.Stat(); err == nil && info.Size() == 0 {
		initrd, flags = -1, unix.KEXEC_FILE_NO_INITRAMFS
	}
	return kexecError(unix.KexecFileLoad(int(kernel.Fd()), initrd, cmdline, flags))
}

// noFileLoad reports whether the boot kernel has no kexec_file_load(2). Debian 12's for arm64 have none.
func noFileLoad() bool { return errors.Is(unix.KexecFileLoad(-1, -1, "", 0), unix.ENOSYS) }

// checkLoadMemory refuses to load with less than need bytes of free memory.
func checkLoadMemory(need, free int64) error {
	if need <= free {
		return nil
	}
	return fmt.Errorf("%w: %s are missing: %s are free, the kernel needs %s to start; give the machine more", errMemory, report.Bytes(need-free), report.Bytes(free), report.Bytes(need))
}

// checkKernel compares the header of the sealed kernel with its length and with the architecture.
func (p *Payload) checkKernel(arch string) error {
	info, err := p.kernel.Stat()
	if err == nil {
		err = bootfile.CheckKernel(p.kernel, info.Size(), arch)
	}
	if err != nil {
		return fmt.Errorf("kernel of the release: %w", err)
	}
	return nil
}

// openedKernel returns the sealed kernel as kexec_file_load takes it. An arm64 kernel that is
// compressed is decompressed into another sealed memfd: its bytes depend on nothing but the verified
// ones.
func openedKernel(sealed *os.File) (*os.File, error) {
	info, err := sealed.Stat()
	if err != nil {
		return nil, err
	}
	if !bootfile.IsCompressed(sealed, info.Size()) {
		return sealed, nil
	}
	image, err := bootfile.OpenKernel(sealed, info.Size())
	if err != nil {
		return nil, err
	}
	defer image.Close()
	opened, err := memfd("phase-kernel-image")
	if err != nil {
		return nil, err
	}
	if _, err = io.Copy(opened, io.LimitReader(image, maxKernelImage)); err == nil {
		err = seal(opened)
	}
	if err != nil {
		opened.Close()
		return nil, fmt.Errorf("decompress: %w", err)
	}
	return opened, nil
}

// maxKernelImage bounds a decompressed kernel in bytes. Debian's has 33 MiB.
const maxKernelImage = 512 << 20

// checkInitramfs refuses an initramfs that the kernel would not unpack. The next kernel could not say so
// where anybody sees it, and would panic. The data are not decompressed: phase-sign has done that.
func (p *Payload) checkInitramfs() error {
	for _, a := range p.artifacts {
		if a.role != manifest.RoleInitramfs {
			continue
		}
		if err := bootfile.CheckInitramfsHead(io.NewSectionReader(a.file, a.off, a.size), a.size); err != nil {
			return fmt.Errorf("initramfs of the release: %w", err)
		}
	}
	return nil
}

// unpackMemory returns how much memory a kernel needs in addition to its own length to unpack itself.
// kexec allocates this memory page by page.
func unpackMemory(kernel *os.File) int64 {
	info, err := kernel.Stat()
	if err != nil {
		return 0
	}
	return bootfile.UnpackMemory(kernel, info.Size())
}

// kexecError explains an error of kexec_file_load(2).
func kexecError(err error) error {
	why := ""
	switch {
	case err == nil:
		return nil
	case errors.Is(err, unix.ENOSYS):
		why = "the boot kernel was built without CONFIG_KEXEC_FILE; build the image with another kernel"
	case errors.Is(err, unix.EPERM):
		why = notPermitted(os.Geteuid() == 0, kexecDisabled())
	case isSignatureError(err):
		why = notSigned
	case errors.Is(err, unix.EBUSY):
		why = "another load is running; try again"
	case errors.Is(err, unix.ENOEXEC):
		why = "not a kernel image that this machine can start; was the release built for this architecture?"
	case errors.Is(err, unix.ENOMEM), errors.Is(err, unix.EADDRNOTAVAIL):
		why = "too little free memory for a second copy of kernel and initramfs; give the machine more"
	case errors.Is(err, unix.EINVAL):
		why = "refused by the kernel: the command line is too long, or the image cannot be placed in memory"
	default:
		why = "refused by the kernel"
	}
	return fmt.Errorf("kexec: %w: %s", err, why)
}

// segmentsError explains an error of kexec_load(2), which checks no signature.
func segmentsError(err error) error {
	switch {
	case errors.Is(err, unix.ENOSYS):
		return fmt.Errorf("kexec: %w: the boot kernel was built without CONFIG_KEXEC_FILE and without CONFIG_KEXEC; build the image with another kernel", err)
	case errors.Is(err, unix.EPERM) && os.Geteuid() == 0 && !kexecDisabled():
		return fmt.Errorf("kexec: %w: %s", err, lockedDown)
	case errors.Is(err, unix.EBUSY):
		return fmt.Errorf("kexec: %w: another load is running, or the firmware cannot stop the processors", err)
	}
	return kexecError(err)
}

const lockedDown = "lockdown: Secure Boot forbids kexec_load, which a device tree of the release and a boot kernel without CONFIG_KEXEC_FILE need; build the image with another kernel, or turn Secure Boot off"

// isSignatureError reports whether the kernel refused a signature: none, of another key, wrong, of
// another program, or not the only one (crypto/asymmetric_keys/verify_pefile.c).
func isSignatureError(err error) bool {
	for _, e := range []error{unix.ENODATA, unix.ENOKEY, unix.EKEYREJECTED, unix.EBADMSG, unix.ELIBBAD, unix.ENOPKG} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

const notSigned = "lockdown: the release's kernel has no signature that this boot kernel accepts; sign it with phase-sign release --sb-key, or turn Secure Boot off"

// notPermitted explains EPERM, which is also the answer of a locked down kernel for a kernel without a
// signature.
func notPermitted(root, disabled bool) string {
	switch {
	case !root:
		return "not permitted: only root may start a kernel"
	case disabled:
		return "not permitted: kernel.kexec_load_disabled is 1"
	}
	return notSigned
}

// kexecDisabled reports whether the sysctl forbids kexec.
func kexecDisabled() bool {
	value, err := os.ReadFile("/proc/sys/kernel/kexec_load_disabled")
	return err == nil && len(value) > 0 && value[0] == '1'
}

// unload removes the loaded kernel, so that no later restart starts it.
func unload() error {
	err := unix.KexecFileLoad(-1, -1, "", unix.KEXEC_FILE_UNLOAD)
	if errors.Is(err, unix.ENOSYS) {
		err = nil
		if _, _, errno := unix.Syscall6(unix.SYS_KEXEC_LOAD, 0, 0, 0, 0, 0, 0); errno != 0 {
			err = errno
		}
	}
	if err != nil {
		return fmt.Errorf("kexec: the kernel stays loaded: %w; restart the machine to remove it", err)
	}
	return nil
}

// jump starts the loaded kernel. It returns only on an error.
func jump() error {
	if loaded, err := os.ReadFile("/sys/kernel/kexec_loaded"); err == nil && len(loaded) > 0 && loaded[0] != '1' {
		return errors.New("kexec: the boot process succeeded without loading a kernel")
	}
	unix.Sync()
	if err := unix.Reboot(unix.LINUX_REBOOT_CMD_KEXEC); err != nil {
		return fmt.Errorf("kexec: jump: %w", err)
	}
	return errors.New("kexec: the jump returned")
}
