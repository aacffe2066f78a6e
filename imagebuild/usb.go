package imagebuild

import (
	"context"
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"

	"github.com/phaseboot/phaseboot/internal/atomicfile"
	"github.com/phaseboot/phaseboot/internal/file"
)

// Layout of a USB image in bytes: 1 MiB for the partition table, the EFI system partition,
// the cache partition, and 1 MiB for the backup of the partition table.
const (
	firstPartition = mib
	backupTable    = mib
	minCache       = 32 * mib
	sector         = 512
)

// Names of the EFI system partitions.
const (
	espName      = "EFI system partition"
	fallbackName = "PHASE-GRUB"
)

// CacheLabel is the label of the ext4 filesystem where a machine keeps verified blocks and
// metadata.
const CacheLabel = "PHASE-CACHE"

// WriteUSB builds a sparse disk image of size bytes for a USB stick or a virtual machine and
// writes it to out. The error for a size that is too small names the smallest one.
func (b *Builder) WriteUSB(ctx context.Context, m Media, size int64, out string) (*MediaInfo, error) {
	if err := checkOut(out); err != nil {
		return nil, err
	}
	if err := checkSize(size, minESP); err != nil {
		return nil, err
	}
	if err := requireTools("mkfs.vfat", "mmd", "mke2fs", "sgdisk", "zstd"); err != nil {
		return nil, err
	}
	tree, err := b.espTree(ctx, m)
	if err != nil {
		return nil, err
	}
	if err := checkSize(size, tree.size()+tree.fallbackSize()); err != nil {
		return nil, err
	}
	d := layOut(tree, size)
	err = atomicfile.Build(out, 0o644, func(image string) error { return b.makeDisk(ctx, tree, d, image) })
	if err != nil {
		return nil, err
	}
	info := tree.info
	info.Out, info.Size, info.Cache, info.Disk = out, size, d.cacheSize, d.guid("disk")
	return &info, nil
}

func checkSize(size, esp int64) error {
	if least := firstPartition + esp + minCache + backupTable; size < least {
		return optionsf("size %d MiB: too small; at least --size %dM", size/mib, least/mib)
	}
	return nil
}

// fallbackSize returns the size of the second EFI system partition in bytes, 0 without one.
func (t *espTree) fallbackSize() int64 {
	if t.fallback == nil {
		return 0
	}
	return t.fallback.size()
}

// A disk is the layout of an image. Offsets and sizes are bytes.
type disk struct {
	seed                  [32]byte
	size                  int64
	espSize, fallbackSize int64
	cacheStart, cacheSize int64
}

func layOut(t *espTree, size int64) disk {
	d := diskOf(t.identity(), size)
	d.espSize, d.fallbackSize = t.size(), t.fallbackSize()
	d.cacheStart = firstPartition + d.espSize + d.fallbackSize
	d.cacheSize = (size - backupTable - d.cacheStart) / mib * mib
	return d
}

// diskOf returns a disk that has only its size and its identifiers.
func diskOf(identity [32]byte, size int64) disk {
	return disk{size: size, seed: sha256.Sum256(fmt.Appendf(nil, "%x %d", identity, size))}
}

// guid derives an identifier from the content of the image: a UUID of version 8 (RFC 9562).
func (d disk) guid(what string) string {
	h := sha256.Sum256(append(d.seed[:], what...))
	h[6] = h[6]&0x0f | 0x80
	h[8] = h[8]&0x3f | 0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", h[0:4], h[4:6], h[6:8], h[8:10], h[10:16])
}

func (b *Builder) makeDisk(ctx context.Context, t *espTree, d disk, image string) error {
	if err := os.Truncate(image, d.size); err != nil {
		return file.FullDisk(err)
	}
	tmp, clean, err := b.tempDir()
	if err != nil {
		return err
	}
	defer clean()
	at := int64(firstPartition)
	for _, tree := range []*espTree{t, t.fallback} {
		if tree == nil {
			continue
		}
		esp := filepath.Join(tmp, "esp")
		if err := os.WriteFile(esp, nil, 0o644); err != nil {
			return file.FullDisk(err)
		}
		if err := b.makeESP(ctx, tree, esp); err != nil {
			return err
		}
		if err := copySparse(image, at, esp, 0, tree.size()); err != nil {
			return err
		}
		at += tree.size()
	}
	if err := b.makeCache(ctx, t, d, image); err != nil {
		return err
	}
	return d.partition(ctx, image)
}

// makeCache makes the ext4 filesystem inside the image. It initializes all tables now:
// otherwise a kernel thread would write to the stick later, also with phase.nowrite.
func (b *Builder) makeCache(ctx context.Context, t *espTree, d disk, image string) error {
	defer b.progress.step("cache partition")()
	extended := fmt.Sprintf("offset=%d,hash_seed=%s,root_owner=0:0,lazy_itable_init=0,lazy_journal_init=0,nodiscard", d.cacheStart, d.guid("cache hash"))
	mke2fs := command("mke2fs", "-q", "-F", "-t", "ext4", "-m", "0", "-L", CacheLabel, "-U", d.guid("cache"),
		"-E", extended, image, fmt.Sprintf("%dk", d.cacheSize>>10))
	date := max(t.date.Unix(), 1) // 0 would mean now
	return mke2fs.with(fmt.Sprintf("E2FSPROGS_FAKE_TIME=%d", date), fmt.Sprintf("SOURCE_DATE_EPOCH=%d", date)).run(ctx)
}

// partition writes the GPT and its backup.
func (d disk) partition(ctx context.Context, image string) error {
	span := func(n int, start, size int64) string {
		return fmt.Sprintf("--new=%d:%d:%d", n, start/sector, (start+size)/sector-1)
	}
	args := []string{"--clear", "--set-alignment=1", "--disk-guid=" + d.guid("disk")}
	last := 0
	add := func(start, size int64, kind, name, id string) {
		last++
		args = append(args, span(last, start, size), fmt.Sprintf("--typecode=%d:%s", last, kind), fmt.Sprintf("--change-name=%d:%s", last, name), fmt.Sprintf("--partition-guid=%d:%s", last, d.guid(id)))
	}
	add(firstPartition, d.espSize, "EF00", espName, "esp")
	if d.fallbackSize > 0 {
		add(firstPartition+d.espSize, d.fallbackSize, "EF00", fallbackName, "fallback")
	}
	add(d.cacheStart, d.cacheSize, "8300", CacheLabel, "cache partition")
	return command("sgdisk", append(args, image)...).run(ctx)
}
