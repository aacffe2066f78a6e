package machine

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/phaseboot/phaseboot/internal/bootfile"
)

// Load hands the sealed files to the kernel, with the command line that is
// used at the jump. The jump itself is PID 1's. free is the memory that is free
// now, in bytes: kexec_file_load with too little calls the OOM killer. arch is the
// machine's, as channels spell it: a kernel of another one, or one that was cut
// short, would be loaded by some kernels and crash the machine at the jump.
func (p *Payload) Load(cmdline, arch string, free int64) error {
	if need := (kexecCopies-1)*p.Size() + unpackRoom(p.kernel); need > free {
		return fmt.Errorf("%w: %s are free, the kernel needs %s to start; give the machine more", errMemory, words(free), words(need))
	}
	if err := p.checkKernel(arch); err != nil {
		return err
	}
	initrd, flags := int(p.initrd.Fd()), 0
	if info, err := p.initrd.Stat(); err == nil && info.Size() == 0 {
		initrd, flags = -1, unix.KEXEC_FILE_NO_INITRAMFS
	}
	return kexecWords(unix.KexecFileLoad(int(p.kernel.Fd()), initrd, cmdline, flags))
}

// checkKernel compares the header of the sealed kernel with its length and with
// the machine.
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

// unpackRoom is what an x86 kernel wants beyond its own length to unpack itself:
// init_size of its setup header (Documentation/x86/boot.rst), 0 for other formats.
// kexec_file_load allocates it page by page.
func unpackRoom(kernel *os.File) int64 {
	const magicAt, sizeAt = 0x202, 0x260
	var header [sizeAt + 4]byte
	info, err := kernel.Stat()
	if err != nil {
		return 0
	}
	if _, err := kernel.ReadAt(header[:], 0); err != nil || string(header[magicAt:magicAt+4]) != "HdrS" {
		return 0
	}
	return max(int64(binary.LittleEndian.Uint32(header[sizeAt:]))-info.Size(), 0)
}

// kexecWords says what kexec_file_load(2) means by its errors.
func kexecWords(err error) error {
	why := ""
	switch {
	case err == nil:
		return nil
	case errors.Is(err, unix.ENOSYS):
		why = "the boot kernel was built without CONFIG_KEXEC_FILE; build the image with another kernel"
	case errors.Is(err, unix.EPERM):
		why = "not allowed here: not root, kernel.kexec_load_disabled is 1, or lockdown wants a kernel signed for Secure Boot"
	case errors.Is(err, unix.EKEYREJECTED), errors.Is(err, unix.ENODATA), errors.Is(err, unix.ENOKEY):
		why = "lockdown: the release's kernel carries no signature that this boot kernel knows; sign it, or turn Secure Boot off"
	case errors.Is(err, unix.EBUSY):
		why = "another load is under way; try again"
	case errors.Is(err, unix.ENOEXEC):
		why = "not a kernel image that this machine can start; was the release built for this architecture?"
	case errors.Is(err, unix.ENOMEM), errors.Is(err, unix.EADDRNOTAVAIL):
		why = "too little free memory for a second copy of kernel and initramfs; give the machine more"
	case errors.Is(err, unix.EINVAL):
		why = "refused by the kernel: a command line that is too long, or an image it cannot place"
	default:
		why = "refused by the kernel"
	}
	return fmt.Errorf("kexec: %w: %s", err, why)
}

// jump starts the loaded kernel. It returns only when that is impossible.
func jump() error {
	if loaded, err := os.ReadFile("/sys/kernel/kexec_loaded"); err == nil && len(loaded) > 0 && loaded[0] != '1' {
		return errors.New("kexec: no kernel is loaded although the boot process said so")
	}
	unix.Sync()
	if err := unix.Reboot(unix.LINUX_REBOOT_CMD_KEXEC); err != nil {
		return fmt.Errorf("kexec: jump: %w", err)
	}
	return errors.New("kexec: the jump returned")
}
