package signer

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/phaseboot/phaseboot/internal/bootfile"
	"github.com/phaseboot/phaseboot/internal/file"
	"github.com/phaseboot/phaseboot/internal/refusal"
	"github.com/phaseboot/phaseboot/manifest"
)

// An input is an open file of a release. The same open file is inspected and hashed.
type input struct {
	roleFile
	*os.File
	info fs.FileInfo
}

// open opens a file of the release. It refuses devices, because some never end. A pipe cannot be
// inspected, so it is accepted only unchecked.
func (f roleFile) open(unchecked bool) (input, error) {
	info, err := os.Stat(f.path) // before the open, which may block for ever
	if err != nil {
		return input{}, fmt.Errorf("%s: %w", f.words(), file.Advise(err))
	}
	if err := f.checkKind(info, unchecked); err != nil {
		return input{}, err
	}
	opened, err := os.Open(f.path)
	if err != nil {
		return input{}, fmt.Errorf("%s: %w", f.words(), file.Advise(err))
	}
	if info, err = opened.Stat(); err == nil {
		err = f.checkKind(info, unchecked)
	}
	if err != nil {
		opened.Close()
		return input{}, err
	}
	return input{f, opened, info}, nil
}

// checkKind refuses folders, devices and empty files, and pipes unless they are unchecked.
func (f roleFile) checkKind(info fs.FileInfo, unchecked bool) error {
	switch mode := info.Mode(); {
	case mode.IsDir():
		return refusal.Invalid("%s: is a directory; name a file", f.words())
	case mode.IsRegular() && info.Size() == 0:
		return corrupt("%s: the file is empty; build it again", f.words())
	case mode&fs.ModeNamedPipe != 0 && !unchecked:
		return refusal.Invalid("%s: is a pipe, which cannot be inspected; write it to a file first", f.words())
	case !mode.IsRegular() && mode&fs.ModeNamedPipe == 0:
		return refusal.Invalid("%s: is not a regular file; copy it to one first", f.words())
	}
	return nil
}

// words names the file as the command line did.
func (f roleFile) words() string { return "--" + f.flag + " " + f.path }

// inspect refuses a file that no machine can use for its role.
func (i input) inspect(arch string) error {
	var err error
	switch i.flag {
	case "kernel", "boot-kernel", signedKernelFlag:
		err = bootfile.CheckKernel(i.File, i.info.Size(), arch)
	case "initramfs", "boot-initramfs":
		err = bootfile.CheckInitramfs(i.File, i.info.Size())
	case "rootfs":
		err = bootfile.CheckRootfs(i.File, i.info.Size())
	case "dtb":
		err = bootfile.CheckDTB(i.File, i.info.Size())
	case "job":
		err = bootfile.CheckJob(i.File, i.info.Size())
	}
	if errors.Is(err, bootfile.ErrTruncated) {
		return corrupt("%s: %v", i.words(), err)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", i.words(), err)
	}
	return nil
}

// unchanged refuses a file that was written to while it was read.
func (i input) unchanged() error {
	now, err := i.Stat()
	if err != nil {
		return fmt.Errorf("%s: %w", i.words(), file.Pathless(err))
	}
	if i.info.Mode().IsRegular() && (now.Size() != i.info.Size() || !now.ModTime().Equal(i.info.ModTime())) {
		return corrupt("%s: changed while it was being read; run it again when no program writes to it", i.words())
	}
	return nil
}

// inputs are the open files of a release in the order in which they are hashed.
type inputs []input

// openInputs opens and inspects all files before the first one is hashed, which takes long.
func (s ReleaseSpec) openInputs() (list inputs, err error) {
	for _, f := range s.files() {
		in, err := f.open(s.Unchecked)
		if err != nil {
			list.close()
			return nil, err
		}
		list = append(list, in)
	}
	if s.Unchecked {
		return list, nil
	}
	if err := list.inspect(s.Arch); err != nil {
		list.close()
		return nil, fmt.Errorf("%w (--unchecked signs it anyway)", err)
	}
	if err := s.checkKernel(list[0]); err != nil { // the order of ReleaseSpec.files
		list.close()
		return nil, err
	}
	return list, nil
}

// inspect checks the sizes first, because it reads the initramfs to its end.
func (l inputs) inspect(arch string) error {
	if err := l.checkTogether(); err != nil {
		return err
	}
	for _, in := range l {
		if err := in.inspect(arch); err != nil {
			return l.swapped(in, arch, err)
		}
	}
	return nil
}

// swapped adds to err that kernel and initramfs are swapped, if they are.
func (l inputs) swapped(in input, arch string, err error) error {
	kernel, initramfs := l[0], l[1] // the order of ReleaseSpec.files
	if in.role != manifest.RoleKernel || bootfile.CheckInitramfs(kernel.File, kernel.info.Size()) != nil ||
		bootfile.CheckKernel(initramfs.File, initramfs.info.Size(), arch) != nil {
		return err
	}
	return fmt.Errorf("%w; --kernel and --initramfs are swapped", err)
}

// checkTogether refuses files that are too large for kexec: it loads initramfs, root file system and
// job as one initramfs.
func (l inputs) checkTogether() error {
	const room = 1 << 20 // headers, and the files of the boot report
	var sum int64
	for _, in := range l {
		if in.flag == "initramfs" || in.flag == "rootfs" || in.flag == "job" {
			sum += in.info.Size()
		}
	}
	if sum > bootfile.MaxInitramfs-room {
		return refusal.Invalid("release: initramfs, root file system and job have %d bytes together; a machine accepts less than 4 GiB: make them smaller", sum)
	}
	return nil
}

func (l inputs) close() {
	for _, in := range l {
		in.Close()
	}
}
