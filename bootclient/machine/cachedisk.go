package machine

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/phaseboot/phaseboot/internal/atomicfile"
	"github.com/phaseboot/phaseboot/internal/file"
)

const (
	extStateAt = 0x3A // offset in the superblock
	extErrors  = 2    // the kernel found errors in the file system

	cacheBlock = "4096" // block size of a recreated cache, in bytes
)

// markedDamaged reports whether the kernel marked an ext4 file system as damaged.
func markedDamaged(r io.ReaderAt) bool {
	var sb [256]byte
	_, err := r.ReadAt(sb[:], superblock)
	return err == nil && binary.LittleEndian.Uint16(sb[extMagicAt:]) == extMagic && binary.LittleEndian.Uint16(sb[extStateAt:])&extErrors != 0
}

// mountCache mounts the cache partition at dir. A read-only mount does not write to the
// device, not even to its journal. An attacker may have written the partition: symbolic links
// (MS_NOSYMFOLLOW, Linux 5.10), device nodes and programs on it do not work.
func mountCache(device, dir string, write bool) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("cache: %w", err)
	}
	flags, data := uintptr(noPrograms|unix.MS_NOSYMFOLLOW), "errors=remount-ro"
	if !write {
		flags, data = flags|unix.MS_RDONLY, "noload"
	}
	if err := unix.Mount(device, dir, "ext4", flags, data); err != nil {
		return fmt.Errorf("cache %s: mount: %w", device, err)
	}
	return nil
}

// mountFoundCache finds the cache partition, which newDisk announces, and mounts it at dir. It formats
// nothing.
func mountFoundCache(ctx context.Context, newDisk <-chan struct{}, dir string, write bool) (device string, err error) {
	if !hasFileSystem("ext4") { // the system of a target may have no modules
		if err := loadModule("ext4"); err != nil {
			return "", err
		}
	}
	found, _, err := disks{sys: "/sys", dev: "/dev", boot: bootPartition(loadModule)}.wait(ctx, newDisk)
	if err == nil && found.unformatted {
		err = errNoCache
	}
	if err != nil {
		return "", err
	}
	return found.device, mountCache(found.device, dir, write)
}

// hasFileSystem reports whether the kernel can mount a file system without another module.
func hasFileSystem(name string) bool {
	list, err := os.ReadFile("/proc/filesystems")
	return err == nil && slices.Contains(strings.Fields(string(list)), name)
}

// cacheLock is locked by the process behind the menu that mounts or unmounts the cache partition:
// phase-boot save and phase-boot search run at the same time.
const cacheLock = "/run/phase-boot.cache"

// lockCache waits for the lock of a file.
func lockCache(ctx context.Context, path string) (unlock func(), err error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	if err := file.Lock(ctx, f); err != nil {
		f.Close()
		return nil, fmt.Errorf("cache: %w", err)
	}
	return func() { f.Close() }, nil
}

// leaveCache calls unmount, unless another process holds the lock: that one has unmounted the cache
// itself, and what is mounted now is its own.
func leaveCache(path string, unmount func()) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err == nil {
		defer f.Close()
		err = file.TryLock(f)
	}
	if !errors.Is(err, file.ErrLocked) {
		unmount()
	}
}

// unmountCache unmounts the cache partition, later if it is in use.
func unmountCache() {
	if err := unix.Unmount(cacheDir, 0); errors.Is(err, unix.EBUSY) {
		_ = unix.Unmount(cacheDir, unix.MNT_DETACH)
	}
}

// useCache mounts the cache partition with the rights that the mode allows. It returns the
// rights that were possible and a summary for the report. A damaged file system is recreated if
// it may be written; a write-protected disk is mounted read-only.
func useCache(ctx context.Context, p cachePartition, rights string) (got, summary string, err error) {
	if rights != "rw" {
		err := mountCache(p.device, cacheDir, false)
		if isDamage(err) {
			err = fmt.Errorf("%w; the next boot in a mode with a writable cache recreates it", err)
		}
		return rights, p.device + " (" + rights + ")", err
	}
	why := p.damage()
	if why == nil {
		err = mountCache(p.device, cacheDir, true)
		switch {
		case err == nil:
			return rights, p.device + " (rw)", nil
		case errors.Is(err, unix.EROFS), errors.Is(err, unix.EACCES):
			return "ro", p.device + " (ro: the disk is write-protected; new blocks are not stored, and the next boot cannot detect an older release)", mountCache(p.device, cacheDir, false)
		case !isDamage(err):
			return "off", "", err
		}
		why = err
	}
	summary, err = p.recreate(ctx)
	if err != nil {
		return "off", "", fmt.Errorf("%w; and it cannot be recreated: %w", why, err)
	}
	return rights, fmt.Sprintf("%s (rw), recreated because it was damaged (%v); %s", p.device, why, summary), nil
}

// recreate makes a new file system and mounts it. Trusted metadata and the machine's key are
// saved from the old one if they can still be read.
func (p cachePartition) recreate(ctx context.Context) (summary string, err error) {
	var saved []savedFile
	if err := mountCache(p.device, cacheDir, false); err == nil {
		saved = saveFiles(cacheDir)
		unmountCache()
	}
	if err := formatCache(ctx, p.device); err != nil {
		return "", err
	}
	if err := mountCache(p.device, cacheDir, true); err != nil {
		return "", err
	}
	if len(saved) == 0 {
		return "trusted metadata are lost: this boot cannot detect an older release", nil
	}
	if err := restoreFiles(cacheDir, saved); err != nil {
		return "", err
	}
	return "trusted metadata were saved", nil
}

// A savedFile is a small file of a cache; path is relative to the cache.
type savedFile struct {
	path string
	data []byte
}

const (
	maxSaved      = 1024    // files
	maxSavedFile  = 1 << 20 // bytes of one file
	maxSavedBytes = 8 << 20 // bytes of all files
)

// saveFiles reads the trusted metadata, the keys of the machine and what is known about started releases from a cache.
// They are verified again when they are used.
func saveFiles(dir string) (saved []savedFile) {
	left := int64(maxSavedBytes)
	names, _ := filepath.Glob(filepath.Join(dir, "trust", "*", "*.json")) // fails only for a malformed pattern
	good, _ := filepath.Glob(filepath.Join(dir, goodDir, "*.json"))
	names = slices.Concat(names[:min(len(names), maxSaved)], good[:min(len(good), maxSaved)])
	for _, name := range []string{keyFile, ageFile, healthFile, startRecord, startRole} {
		names = append(names, filepath.Join(dir, name))
	}
	for _, name := range names {
		path, err := filepath.Rel(dir, name)
		if err != nil || file.CheckFolder(filepath.Dir(name)) != nil {
			continue
		}
		if data, err := file.Read(name, file.NoFollow, min(maxSavedFile, left)); err == nil {
			saved, left = append(saved, savedFile{path, data}), left-int64(len(data))
		}
	}
	return saved
}

// restoreFiles writes what saveFiles has read. A record of the last start that was not read may be damaged or gone: then
// nobody knows whether that start was blessed, so it does not count as such.
func restoreFiles(dir string, saved []savedFile) error {
	for _, f := range saved {
		name := filepath.Join(dir, f.path)
		if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
			return err
		}
		if err := atomicfile.Write(name, 0o600, f.data); err != nil {
			return err
		}
	}
	if !slices.ContainsFunc(saved, func(f savedFile) bool { return f.path == startRecord }) {
		_ = forgetStarted(dir) // counters that are damaged begin again
	}
	return nil
}

// damage returns what is wrong with a partition, from its superblock and before it is mounted.
func (p cachePartition) damage() error {
	if p.unformatted {
		return errors.New("no file system with the label " + cacheLabel)
	}
	f, err := os.Open(p.device)
	if err != nil {
		return nil // the mount reports it
	}
	defer f.Close()
	if markedDamaged(f) {
		return errors.New("the kernel found errors in its file system")
	}
	return nil
}

// isDamage reports whether a mount failed because of the content of the disk.
func isDamage(err error) bool {
	content := []error{unix.EUCLEAN, unix.EBADMSG, unix.EINVAL, unix.EOVERFLOW, unix.EFBIG}
	return slices.ContainsFunc(content, func(target error) bool { return errors.Is(err, target) })
}

// formatCache makes an empty ext2 file system. busybox makes no journal, and a cache needs
// none: after a power cut, blocks are hashed again and a damaged file system is recreated.
func formatCache(ctx context.Context, device string) error {
	out, err := exec.CommandContext(ctx, "/bin/busybox", "mke2fs", "-F", "-m", "0", "-b", cacheBlock, "-L", cacheLabel, device).CombinedOutput()
	if err != nil {
		return fmt.Errorf("mke2fs: %w: %.200s", err, strings.TrimSpace(string(out)))
	}
	return nil
}
