package signer

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/internal/atomicfile"
	"github.com/phaseboot/phaseboot/internal/authenticode"
	"github.com/phaseboot/phaseboot/internal/bootfile"
	"github.com/phaseboot/phaseboot/internal/file"
	"github.com/phaseboot/phaseboot/internal/refusal"
	"github.com/phaseboot/phaseboot/manifest"
)

// SecureBoot names the certificate of the machines' firmware. A boot kernel that Secure Boot has locked
// down starts only a kernel whose signature leads to it.
type SecureBoot struct {
	Certificate  *x509.Certificate    // in the firmware's db; nil: the kernel's signature is not checked
	Signer       *authenticode.Signer // signs the kernel; nil: it is signed already
	SignedKernel string               // where the signed kernel is written, if there is a Signer
	Warn         func(line string)    // gets a warning about the kernel
}

// signedKernelFlag is the flag that names the signed kernel.
const signedKernelFlag = "sb-kernel"

// maxKernel bounds a kernel that is signed, in bytes. Debian's has 14 MiB.
const maxKernel = 512 << 20

// kernelFile is the kernel of the release: the signed one, if it is signed here.
func (s ReleaseSpec) kernelFile() roleFile {
	if s.Signer != nil {
		return roleFile{manifest.RoleKernel, signedKernelFlag, s.SignedKernel}
	}
	return roleFile{manifest.RoleKernel, "kernel", s.Kernel}
}

// signKernel writes s.Kernel with a signature of s.Signer to s.SignedKernel.
func (s ReleaseSpec) signKernel(ctx context.Context) error {
	in, err := roleFile{manifest.RoleKernel, "kernel", s.Kernel}.open(false)
	if err != nil {
		return err
	}
	defer in.Close()
	if err := in.inspect(s.Arch); err != nil {
		return err
	}
	if err := errors.Join(s.checkSignedKernel(in), in.checkUncompressed()); err != nil {
		return err
	}
	kernel, err := file.ReadAll(in.File, maxKernel)
	if err != nil {
		return fmt.Errorf("%s: %w", in.words(), err)
	}
	signed, err := s.Signer.SignKernel(kernel)
	if err != nil {
		return fmt.Errorf("%s: sign for Secure Boot: %w", in.words(), err)
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	return atomicfile.Write(s.SignedKernel, 0o644, signed)
}

// checkSignedKernel refuses to replace the kernel that is signed, because firmware does not start a
// signed one, and a file that is no kernel.
func (s ReleaseSpec) checkSignedKernel(kernel input) error {
	words := s.kernelFile().words()
	info, err := os.Stat(s.SignedKernel)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return fmt.Errorf("%s: %w", words, file.Pathless(err))
	case os.SameFile(info, kernel.info):
		return refusal.Invalid("%s: is the file of --kernel; name another one, because only kexec starts the signed kernel", words)
	case info.Mode().IsRegular() && info.Size() == 0:
		return nil
	}
	there, err := s.kernelFile().open(false)
	if err == nil {
		defer there.Close()
		err = there.inspect(s.Arch)
	}
	if err != nil {
		return refusal.New(fs.ErrExist, "%s: the file there is not a kernel; choose another name", words)
	}
	return nil
}

// checkUncompressed refuses an arm64 kernel that is decompressed before kexec, which would lose the
// signature.
func (i input) checkUncompressed() error {
	if bootfile.IsCompressed(i.File, i.info.Size()) {
		return refusal.Invalid("%s: is compressed, and the boot kernel checks the signature of what is in it; give its Image", i.words())
	}
	return nil
}

// checkKernel refuses a kernel that a boot kernel under Secure Boot would not start.
func (s SecureBoot) checkKernel(kernel input) error {
	if s.Certificate == nil {
		return nil
	}
	if err := kernel.checkUncompressed(); err != nil {
		return err
	}
	firmware, err := authenticode.CheckKernel(kernel.File, kernel.info.Size(), s.Certificate)
	if errors.Is(err, cas.ErrCorrupt) {
		return corrupt("%s: under Secure Boot, machines refuse it: %v; sign it with --sb-key and --sb-kernel", kernel.words(), err)
	}
	if err != nil {
		return fmt.Errorf("%s: under Secure Boot, machines refuse it: %w; sign it with --sb-key and --sb-kernel", kernel.words(), err)
	}
	if firmware && s.Warn != nil {
		s.Warn(kernel.words() + ": firmware starts it too, with any initramfs; sign it with --sb-key and --sb-kernel, then only kexec starts it")
	}
	return nil
}
