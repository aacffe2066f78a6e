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
	"strings"

	"golang.org/x/sys/unix"

	"github.com/phaseboot/phaseboot/internal/atomicfile"
	"github.com/phaseboot/phaseboot/internal/file"
)

const (
	extStateAt = 0x3A // offset in the superblock
	extErrors  = 2    // the kernel found the file system damaged

	cacheBlock = "4096" // bytes of a block of a cache that is made anew
)

// damagedExt reports whether the kernel marked a file system as damaged.
func damagedExt(r io.ReaderAt) bool {
	var sb [256]byte
	_, err := r.ReadAt(sb[:], superblock)
	return err == nil && binary.LittleEndian.Uint16(sb[extMagicAt:]) == extMagic && binary.LittleEndian.Uint16(sb[extStateAt:])&extErrors != 0
}

// mountCache mounts the cache partition at dir. Read-only means that the device is not
// written at all, not even its journal. Whoever wrote the partition has no link that leads
// out of it (Linux 5.10), no device and no program there.
func mountCache(device, dir string, write bool) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("cache: %w", err)
	}
	flags, data := uintptr(quiet|unix.MS_NOSYMFOLLOW), "errors=remount-ro"
	if !write {
		flags, data = flags|unix.MS_RDONLY, "noload"
	}
	if err := unix.Mount(device, dir, "ext4", flags, data); err != nil {
		return fmt.Errorf("cache %s: mount: %w", device, err)
	}
	return nil
}

// useCache mounts the cache partition with the rights that the mode gives, and returns the
// rights that it has then, and words. One that is damaged is made anew where it may be
// written; a disk that cannot be written is read.
func useCache(ctx context.Context, p cachePartition, rights string) (got, words string, err error) {
	if rights != "rw" {
		err := mountCache(p.device, cacheDir, false)
		if damagedDisk(err) {
			err = fmt.Errorf("%w; the next boot in a mode that may write it makes it anew", err)
		}
		return rights, p.device + " (" + rights + ")", err
	}
	why := p.fault()
	if why == nil {
		err = mountCache(p.device, cacheDir, true)
		switch {
		case err == nil:
			return rights, p.device + " (rw)", nil
		case errors.Is(err, unix.EROFS), errors.Is(err, unix.EACCES):
			return "ro", p.device + " (ro: the disk cannot be written; new blocks are not kept, and an older release cannot be told next time)", mountCache(p.device, cacheDir, false)
		case !damagedDisk(err):
			return "off", "", err
		}
		why = err
	}
	words, err = p.remake(ctx)
	if err != nil {
		return "off", "", fmt.Errorf("%w; and it cannot be made anew: %w", why, err)
	}
	return rights, fmt.Sprintf("%s (rw), made anew because it was damaged (%v); %s", p.device, why, words), nil
}

// remake makes the file system anew and mounts it. What is remembered of releases is kept
// if it can still be read.
func (p cachePartition) remake(ctx context.Context) (words string, err error) {
	var kept []keptFile
	if err := mountCache(p.device, cacheDir, false); err == nil {
		kept = keepFiles(cacheDir)
		unmountCache()
	}
	if err := makeExt(ctx, p.device); err != nil {
		return "", err
	}
	if err := mountCache(p.device, cacheDir, true); err != nil {
		return "", err
	}
	if len(kept) == 0 {
		return "nothing is remembered: an older release cannot be told this time", nil
	}
	if err := restoreFiles(cacheDir, kept); err != nil {
		return "", err
	}
	return "what was remembered of releases was kept", nil
}

// A keptFile is a small file of a cache, by its path below it.
type keptFile struct {
	path string
	data []byte
}

const (
	maxKept     = 1024    // files
	maxKeptFile = 1 << 20 // bytes
	maxKeptAll  = 8 << 20 // bytes
)

// keepFiles reads the remembered metadata and the machine's key. They are verified when
// they are used, as always.
func keepFiles(dir string) (kept []keptFile) {
	left := int64(maxKeptAll)
	names, _ := filepath.Glob(filepath.Join(dir, "trust", "*", "*.json")) // an error is of the pattern
	for _, name := range append(names[:min(len(names), maxKept)], filepath.Join(dir, keyFile)) {
		path, err := filepath.Rel(dir, name)
		if err != nil || file.CheckFolder(filepath.Dir(name)) != nil {
			continue
		}
		if data, err := file.Read(name, file.NoFollow, min(maxKeptFile, left)); err == nil {
			kept, left = append(kept, keptFile{path, data}), left-int64(len(data))
		}
	}
	return kept
}

func restoreFiles(dir string, kept []keptFile) error {
	for _, f := range kept {
		name := filepath.Join(dir, f.path)
		if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
			return err
		}
		if err := atomicfile.Write(name, 0o600, f.data); err != nil {
			return err
		}
	}
	return nil
}

// fault says what is wrong with a partition before it is mounted.
func (p cachePartition) fault() error {
	if p.blank {
		return errors.New("no file system of its label")
	}
	f, err := os.Open(p.device)
	if err != nil {
		return nil // the mount says it
	}
	defer f.Close()
	if damagedExt(f) {
		return errors.New("the kernel found errors in its file system")
	}
	return nil
}

// damagedDisk reports whether a mount failed for what stands on the disk.
func damagedDisk(err error) bool {
	for _, of := range []error{unix.EUCLEAN, unix.EBADMSG, unix.EINVAL, unix.EOVERFLOW, unix.EFBIG} {
		if errors.Is(err, of) {
			return true
		}
	}
	return false
}

// makeExt makes an empty file system, without a journal: busybox can, and what a power cut
// leaves of a cache is hashed, or made anew.
func makeExt(ctx context.Context, device string) error {
	out, err := exec.CommandContext(ctx, "/bin/busybox", "mke2fs", "-F", "-m", "0", "-b", cacheBlock, "-L", cacheLabel, device).CombinedOutput()
	if err != nil {
		return fmt.Errorf("mke2fs: %w: %.200s", err, strings.TrimSpace(string(out)))
	}
	return nil
}
