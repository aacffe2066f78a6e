package machine

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"os"
	"strings"
	"unicode/utf16"

	"golang.org/x/sys/unix"
)

// Bounds of the GUID partition table that is read (UEFI specification, section 5.3).
const (
	gptSignature = "EFI PART"
	gptMax       = 256 // entries
	gptEntry     = 128 // smallest size of an entry, in bytes
)

// hasPartition reports whether a disk has a GPT with a partition of this GUID.
func hasPartition(disk io.ReaderAt, guid string) bool { return partitionNumber(disk, guid) > 0 }

// partitionNumber returns the number, from 1, of the partition of a GUID in the GPT of a disk, 0 for none. The GUID
// has the text form of the UEFI specification, in lower case.
func partitionNumber(disk io.ReaderAt, guid string) int {
	for _, sector := range []int64{512, 4096} {
		var head [92]byte
		if _, err := disk.ReadAt(head[:], sector); err != nil || string(head[:8]) != gptSignature {
			continue
		}
		at := binary.LittleEndian.Uint64(head[72:])
		n, size := binary.LittleEndian.Uint32(head[80:]), binary.LittleEndian.Uint32(head[84:])
		if at > 1<<20 || size < gptEntry || size > 4096 {
			continue
		}
		for i := range int64(min(n, gptMax)) {
			var entry [gptEntry]byte
			if _, err := disk.ReadAt(entry[:], int64(at)*sector+i*int64(size)); err != nil {
				break
			}
			if guidText(entry[16:32]) == guid {
				return int(i) + 1
			}
		}
	}
	return 0
}

// guidText formats a GUID. Its first three numbers are little-endian.
func guidText(b []byte) string {
	return fmt.Sprintf("%08x-%04x-%04x-%x-%x", binary.LittleEndian.Uint32(b), binary.LittleEndian.Uint16(b[4:]),
		binary.LittleEndian.Uint16(b[6:]), b[8:10], b[10:16])
}

const (
	efiVars = "/sys/firmware/efi/efivars"
	// loaderPartition is the variable in which systemd-boot stores the GUID of the partition
	// that it was loaded from (Boot Loader Interface, https://systemd.io/BOOT_LOADER_INTERFACE).
	loaderPartition = "LoaderDevicePartUUID-4a67b082-0a4c-41cf-b6c7-440b29bb8c4f"
	// loaderEntry is the variable with the name of the boot entry that was started.
	loaderEntry = "LoaderEntrySelected-4a67b082-0a4c-41cf-b6c7-440b29bb8c4f"
)

// bootPartition returns the GUID of the partition that the boot loader was loaded from, "" if
// the firmware or the loader does not provide it. load loads a kernel module.
func bootPartition(load func(string) error) string { return loaderVariable(load, loaderPartition) }

// bootEntry returns the name of the file of the boot entry that systemd-boot has started, "" for another loader.
func bootEntry(load func(string) error) string { return loaderVariable(load, loaderEntry) }

// loaderVariable returns the text of an EFI variable in lower case, "" if there is none.
func loaderVariable(load func(string) error, name string) string {
	if !mounted(efiVars) {
		_ = load("efivarfs") // fails if it is built in, or without UEFI
		if err := unix.Mount("efivarfs", efiVars, "efivarfs", noPrograms|unix.MS_RDONLY, ""); err != nil {
			return ""
		}
		defer unix.Unmount(efiVars, 0)
	}
	data, err := os.ReadFile(efiVars + "/" + name)
	if err != nil {
		return ""
	}
	return efiString(data)
}

// efiString decodes an EFI variable: four bytes of attributes, then UTF-16 text.
func efiString(data []byte) string {
	var text []uint16
	for i := 4; i+1 < len(data) && len(text) < 128; i += 2 {
		text = append(text, binary.LittleEndian.Uint16(data[i:]))
	}
	name, _, _ := bytes.Cut([]byte(string(utf16.Decode(text))), []byte{0})
	return strings.ToLower(string(name))
}
