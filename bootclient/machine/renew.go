package machine

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/phaseboot/phaseboot/bootclient/fetch"
	"github.com/phaseboot/phaseboot/internal/bootargs"
	"github.com/phaseboot/phaseboot/internal/bootfile"
	"github.com/phaseboot/phaseboot/internal/bootset"
	"github.com/phaseboot/phaseboot/manifest"
)

// A renewal is the boot set of a release on its way to the stick that the machine was started from. It never ends a
// boot: what prevents it is one line of the report.
type renewal struct {
	boot     *boot
	started  bootset.Name // the boot entry; Counted is that of its start
	update   bootset.Update
	files    map[string]*artifact // by role; nil: the stick gets no boot set
	problems []string
}

// newRenewal returns nil if this boot does not write to disks: then nothing of the stick is opened.
func (b *boot) newRenewal() *renewal {
	if !b.mayWrite {
		return nil
	}
	return &renewal{boot: b, started: startedEntry()}
}

// startedEntry returns the boot entry that was started, without a mode if that was not by systemd-boot.
func startedEntry() bootset.Name {
	name, _ := bootset.ParseName(bootEntry(loadModule))
	return name
}

// sayBootSet names the boot set, unless it is that with which the stick was built.
func (b *boot) sayBootSet() {
	if started := startedEntry(); started.Number > 0 {
		b.report.Say("boot set: number %d of this stick has started the machine", started.Number)
	}
}

// plan decides whether the stick gets the boot set of a release. fits returns an error if the memory has no room for
// more bytes.
func (n *renewal) plan(r manifest.Release, fits func(more int64) error) {
	n.files, n.problems = nil, nil
	kernel, ok := r.Artifact(manifest.RoleBootKernel)
	initramfs, _ := r.Artifact(manifest.RoleBootInitramfs)
	if !ok {
		return
	}
	n.update = bootset.Update{
		Number: r.Number, Release: r.Version, SignedAt: r.SignedAt, Running: n.started.Number,
		Kernel:    bootset.File{Size: kernel.Length, SHA256: kernel.SHA256},
		Initramfs: bootset.File{Size: initramfs.Length, SHA256: initramfs.SHA256},
	}
	switch err := n.judge(r); {
	case errors.Is(err, bootset.ErrUpToDate):
	case err != nil:
		n.fail(err)
	default:
		if err := fits(kernel.Length + initramfs.Length); err != nil {
			n.fail(err)
			return
		}
		n.files = map[string]*artifact{}
	}
}

func (n *renewal) fail(err error) {
	n.files = nil
	n.problems = append(n.problems, fmt.Sprintf("boot set: the stick is not renewed: %v", err))
}

// judge returns why the stick does not get the boot set of a release.
func (n *renewal) judge(r manifest.Release) error {
	switch {
	case n.boot.choice.Channel != "":
		return errors.New("a person chose the channel for this boot alone")
	case r.SignedAt.Before(n.boot.config.Floor):
		return fmt.Errorf("%w: release %.64q was signed before this boot set was built", bootset.ErrOlder, r.Version)
	case n.started.Mode == "":
		return bootset.ErrNoCounting
	}
	return n.withStick(false, func(s *bootset.Stick) error {
		n.update.Modes = writingModes(s.Options())
		return s.Check(n.update)
	})
}

// writingModes returns the modes of the boot menu that may write to a disk.
func writingModes(options map[string]string) (names []string) {
	for name, line := range options {
		if m, err := bootMode(bootargs.Parse(line)); err == nil && m.Cache == "rw" {
			names = append(names, name)
		}
	}
	return names
}

// openBootSet makes room for an artifact of the boot set. It returns nil if the stick does not get it.
func (p *Payload) openBootSet(role string, size int64) (fetch.Target, error) {
	if p.renewal == nil || p.renewal.files == nil {
		return nil, nil
	}
	f, err := memfd("phase-" + strings.ReplaceAll(role, "/", "-"))
	if err != nil {
		return nil, err
	}
	a := &artifact{payload: p, role: role, size: size, file: f}
	p.artifacts = append(p.artifacts, a)
	p.renewal.files[role] = a
	return a, nil
}

// bootSet returns the memfds of the boot set.
func (p *Payload) bootSet() (files []*os.File) {
	for _, a := range p.artifacts {
		if manifest.IsBootSet(a.role) {
			files = append(files, a.file)
		}
	}
	return files
}

// check refuses a boot set that cannot boot this machine, or that trusts another root than the machine and the newest
// one of its repository. The sealed memory was compared with the manifest before.
func (n *renewal) check(newest *manifest.Root) {
	if n.files == nil {
		return
	}
	if err := n.checkFiles(newest); err != nil {
		n.fail(err)
	}
}

func (n *renewal) checkFiles(newest *manifest.Root) error {
	kernel, initramfs := n.files[manifest.RoleBootKernel], n.files[manifest.RoleBootInitramfs]
	if kernel == nil || initramfs == nil {
		return errors.New("it is not complete")
	}
	n.update.Kernel.ReaderAt, n.update.Initramfs.ReaderAt = kernel, initramfs
	config := n.boot.config
	if err := bootfile.CheckKernel(kernel, kernel.size, config.Arch); err != nil {
		return fmt.Errorf("%s: %w", kernel.role, err)
	}
	settings, err := bootset.Settings(initramfs, initramfs.size)
	if err != nil {
		return fmt.Errorf("%s: %w", initramfs.role, err)
	}
	own, err := os.ReadFile(channelFile)
	switch root := settings["root.json"]; {
	case err != nil:
		return err
	case string(settings["role"]) != "boot\n" || !bytes.Equal(settings["channel"], own):
		return fmt.Errorf("%s: role %.20q, channel %.40q; this one has boot, %.40q", initramfs.role, settings["role"], settings["channel"], own)
	case !bytes.Equal(root, config.Root) && !bytes.Equal(root, newest.Bytes()):
		return fmt.Errorf("%s: its root.json is neither that of this boot nor version %d, the newest of the repository", initramfs.role, newest.Version())
	}
	return nil
}

// renewStick runs when a verified release is loaded: it keeps the boot set that has loaded it, and writes that of the
// release. The target could not do it: it has no driver for the stick, which may be unplugged after the jump.
func (b *boot) renewStick(ctx context.Context) {
	n := b.payload.renewal
	if n == nil {
		return
	}
	for _, words := range n.problems {
		b.report.Say("%s", words)
	}
	blesses, err := n.needsBless()
	if err != nil {
		b.report.Say("boot set: %v", err)
		return
	}
	if !blesses && n.files == nil {
		return
	}
	b.report.While(func(so time.Duration) string { return fmt.Sprintf("boot set: writing to the stick, %v so far", so) }, func() {
		err = n.withStick(true, func(s *bootset.Stick) error { return n.write(ctx, s) })
	})
	if err != nil {
		b.report.Say("boot set: the stick is not renewed: %v", err)
	}
}

// needsBless reports whether the set that has started the machine is still on trial.
func (n *renewal) needsBless() (is bool, err error) {
	if n.started.Number == 0 {
		return false, nil
	}
	err = n.withStick(false, func(s *bootset.Stick) error {
		is = s.NeedsBless(n.started.Number)
		return nil
	})
	return is, err
}

func (n *renewal) write(ctx context.Context, s *bootset.Stick) error {
	rep := n.boot.report
	if s.NeedsBless(n.started.Number) {
		if err := s.Bless(n.started.Number); err != nil {
			return err
		}
		set, _ := s.Set(n.started.Number)
		rep.Say("boot set: number %d, of release %s, has loaded a verified release and is kept", set.Number, set.Release)
	}
	if n.files == nil {
		return nil
	}
	if err := s.Write(ctx, n.update); err != nil {
		return err
	}
	rep.Say("boot set: number %d, of release %s, is on the stick; the next start tries it", n.update.Number, n.update.Release)
	return nil
}

// errProtected is the error for a stick that its switch or the machine protects.
var errProtected = errors.New("it is write-protected")

// withStick opens the partition that the machine was started from for f.
func (n *renewal) withStick(write bool, f func(*bootset.Stick) error) error {
	d := disks{sys: "/sys", dev: "/dev", boot: bootPartition(loadModule)}
	name, err := d.bootDevice()
	if err != nil {
		return err
	}
	return openStick(d.path(name), n.boot.config.Arch, write, f)
}

// openStick opens a partition with boot sets for f.
func openStick(path, arch string, write bool, f func(*bootset.Stick) error) error {
	flags := os.O_RDONLY
	if write {
		flags = os.O_RDWR | unix.O_EXCL // not while it is mounted
	}
	dev, err := os.OpenFile(path, flags, 0)
	if errors.Is(err, unix.EROFS) || errors.Is(err, unix.EACCES) {
		return errProtected
	}
	if err != nil {
		return err
	}
	defer dev.Close()
	if protected, err := unix.IoctlGetInt(int(dev.Fd()), unix.BLKROGET); err != nil || protected != 0 {
		return errors.Join(err, errProtected)
	}
	size, err := dev.Seek(0, io.SeekEnd)
	if err != nil {
		return err
	}
	s, err := bootset.Open(dev, size, arch)
	if err != nil {
		return err
	}
	return f(s)
}

// bootDevice returns the name of the partition with the boot loader.
func (d disks) bootDevice() (string, error) {
	names, err := d.list()
	if err != nil {
		return "", err
	}
	i := slices.IndexFunc(names, func(name string) bool {
		number := d.number(name)
		if number == 0 || d.boot == "" {
			return false
		}
		disk, err := d.open(d.parent(name))
		if err != nil {
			return false
		}
		defer disk.Close()
		return partitionNumber(disk, d.boot) == number
	})
	if i < 0 {
		return "", errors.New("the disk that the machine was started from is not found")
	}
	return names[i], nil
}
