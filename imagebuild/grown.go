package imagebuild

import (
	"bytes"
	"errors"
	"fmt"
	"io"

	"github.com/phaseboot/phaseboot/cas"
)

// maxSizes bounds the sizes that findBuilt tries: those of a device of 4 TiB.
const maxSizes = 4 << 20

// findBuilt finds the size with which a grown image was built. The first boot of a stick moves the backup
// of the partition table to the end of the device and enlarges the cache partition, so the table has
// the size of the device. The disk's GUID is derived from the content and the built size, in MiB.
func (c *Contents) findBuilt() {
	is := func(size int64) bool { return diskOf(c.identity, size).guid("disk") == c.Disk }
	if is(c.Size) {
		return
	}
	size := c.Size / mib * mib
	for range maxSizes {
		if size < c.cache.start+minCache {
			return
		}
		if is(size) {
			c.Built = size
			c.CacheGrown = c.cache.start+c.cache.size > (size-backupTable)/mib*mib
			return
		}
		size -= mib
	}
}

// fatIdentity returns the identity of the espTree from which the filesystem was made.
func fatIdentity(files map[string]*fatFile) ([32]byte, error) {
	sums := map[string]string{}
	for name, f := range files {
		sum, err := sumOf(f.reader())
		if err != nil {
			return [32]byte{}, err
		}
		sums[name] = sum
	}
	return identityOf(sums), nil
}

// grown reports whether the partition table was moved to a larger device.
func (c *Contents) grown() bool { return c.Built > 0 }

// compareTable compares the partition table of a grown image with that of its rebuild: everything but
// the end of the cache partition, and the size of the device, which readTable has checked.
func (c *Contents) compareTable(image, rebuilt io.ReaderAt) error {
	here, again := make([]byte, tableEnd), make([]byte, tableEnd)
	if err := errors.Join(readAll(image, here, 0), readAll(rebuilt, again, 0)); err != nil {
		return err
	}
	const protective, entries = 446, 2 * sector
	lastSector := entries + gptEntrySize + 40 // of the cache partition
	if c.Bootloader == LoaderBoth {
		lastSector += gptEntrySize
	}
	copy(here[lastSector:], again[lastSector:lastSector+8])
	if !bytes.Equal(here[:protective], again[:protective]) || !bytes.Equal(here[entries:], again[entries:]) ||
		!bytes.Equal(here[sector+56:sector+72], again[sector+56:sector+72]) { // the disk's GUID
		return fmt.Errorf("partition table: %w", cas.ErrCorrupt)
	}
	return nil
}
