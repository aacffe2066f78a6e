package imagebuild

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strings"

	"github.com/phaseboot/phaseboot/internal/authenticode"
	"github.com/phaseboot/phaseboot/manifest"
	"github.com/phaseboot/phaseboot/modes"
)

// Contents is the content of an image as Verify found it. Digests are SHA-256 in hex.
type Contents struct {
	Image         string `json:"image"`
	Kind          string `json:"kind"`
	Size          int64  `json:"size"`                  // of the image in bytes
	TrailingBytes int64  `json:"bytes_behind"`          // bytes of the device after the image; firmware does not read them
	SHA256        string `json:"sha256,omitempty"`      // of the image; not of a grown one
	BootSum       string `json:"esp_sha256,omitempty"`  // of the EFI system partitions, which machines do not change
	DiskSize      int64  `json:"disk_size,omitempty"`   // of the disk in an image for virtual machines, in bytes
	Built         int64  `json:"built_size,omitempty"`  // of an image whose partition table was moved to the end of a larger disk: its size before
	CacheGrown    bool   `json:"cache_grown,omitempty"` // and a machine has enlarged the cache partition
	Disk          string `json:"disk_guid,omitempty"`
	Bootloader    string `json:"bootloader,omitempty"` // LoaderSystemd, LoaderGRUB or LoaderBoth
	UKI           bool   `json:"uki,omitempty"`        // firmware starts a UKI, no boot loader
	System
	Others      []System    `json:"others,omitempty"`  // of a medium for several architectures
	Renewed     []BootSet   `json:"renewed,omitempty"` // boot sets that were written after the image
	Signer      *Signer     `json:"signer,omitempty"`  // who signed a UKI for Secure Boot
	Default     string      `json:"default_mode,omitempty"`
	Entries     []BootEntry `json:"entries,omitempty"`
	Tor         bool        `json:"tor,omitempty"`
	TorrcSum    string      `json:"torrc_sha256,omitempty"` // of the torrc
	Modes       []ModeFile  `json:"modes,omitempty"`        // boot modes
	Role        string      `json:"role"`
	Channel     string      `json:"channel,omitempty"`
	BuildTime   string      `json:"build_time"`
	RootSum     string      `json:"root_sha256,omitempty"` // of root.json
	Root        *RootKeys   `json:"root,omitempty"`
	Checks      []string    `json:"checks"`             // tools that found no error
	Compared    string      `json:"compared,omitempty"` // comparisons that found no difference
	NotCompared []string    `json:"not_compared"`       // parts that were not compared, one text each

	identity [32]byte // of the files of the EFI system partition

	root  []byte
	torrc []byte
	modes modes.Set
	cache span
	esp   span

	mayBeRenewed bool                 // it has files of boot sets that were written after the image
	unlisted     error                // of an image that is equal to its rebuild, see Rebuilt
	settings     *settings            // of the first initramfs
	signing      *authenticode.Signer // the signature that the image has, nil without one
}

// A Signer is the certificate of a Secure Boot signature.
type Signer struct {
	Subject string `json:"subject"`
	SHA256  string `json:"sha256"` // of the certificate in DER
}

// A System is what an image boots on machines of one architecture. The settings of its initramfs
// are those of the whole image.
type System struct {
	Arch       string `json:"arch,omitempty"`          // "" if /init of an initramfs is no program that is known
	Loader     string `json:"loader_sha256,omitempty"` // of the boot loader; in a UKI, of the stub
	GRUB       string `json:"grub_sha256,omitempty"`   // of GRUB on the second partition of LoaderBoth
	Kernel     string `json:"kernel,omitempty"`
	KernelSum  string `json:"kernel_sha256,omitempty"`
	Initramfs  int64  `json:"initramfs_size"`
	ArchiveSum string `json:"initramfs_sha256"`
	Init       string `json:"init_sha256"`      // of /init, which is phase-boot
	Modules    string `json:"modules"`          // version of the kernel to which the modules belong
	Inputs     Inputs `json:"inputs,omitempty"` // packages of which the image says that it was made
}

// systems returns what the image boots, for each architecture.
func (c *Contents) systems() []System { return append([]System{c.System}, c.Others...) }

// Verify reads an image as firmware, loader and kernel do, and refuses everything that
// phase-image would not write, because one of them could interpret it in another way. Then
// sgdisk, fsck.fat and e2fsck check the partition table and the filesystems. It accepts
// images of WriteUSB, WriteDisk, WriteISO, WriteESP, WriteUKI and WriteInitramfs, and a device
// that an image was written to. A fault of the image is cas.ErrCorrupt.
//
// It reads a stream: memory does not grow with the image or with the sizes in it.
func (b *Builder) Verify(ctx context.Context, image string) (*Contents, error) {
	defer b.progress.step("verify " + filepath.Base(image))()
	path, _ := imageFile(image)
	f, size, err := openImage(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	c := &Contents{Image: image, Size: size}
	read, err := c.detectKind(f)
	if err == nil {
		err = read(ctx, b, f)
	}
	if err != nil {
		return nil, fmt.Errorf("image %s: %w", image, err)
	}
	c.NotCompared = c.notCompared()
	if c.Kind == KindDisk && c.grown() { // its cache is as large as the device, and machines write to it
		return c, nil
	}
	c.SHA256, err = sumRange(ctx, f, 0, c.Size)
	return c, err
}

// notCompared returns a text for each part of the image that was not compared yet.
func (c *Contents) notCompared() []string {
	words := []string{}
	if c.Root != nil && !c.wasCompared(comparedRoot) {
		words = append(words, "root.json: only its keys are shown; --root compares it")
	}
	if !c.wasCompared(comparedRebuild) {
		programs := c.loaderName() + ", kernel, init, modules"
		if c.Kind == KindInitramfs {
			programs = "init, modules"
		}
		words = append(words, programs+": not compared with their packages; --rebuild compares them")
	}
	if c.unlisted != nil {
		words = append(words, c.unlisted.Error())
	}
	if len(c.Renewed) > 0 && !c.wasCompared(comparedReleases) {
		words = append(words, "renewed boot sets: not compared with their releases; --repo compares them")
	}
	if c.cache.size > 0 {
		words = append(words, "cache partition: only its filesystem was checked; a machine verifies the files that it reads there")
	}
	return words
}

// loaderName returns what the program is called that firmware starts.
func (c *Contents) loaderName() string {
	if c.UKI {
		return "stub"
	}
	return "loader"
}

// Values in Contents.Compared.
const (
	comparedRoot     = "root.json"
	comparedRebuild  = "rebuild"
	comparedLists    = "Debian's lists"
	comparedReleases = "releases of the renewed boot sets"
)

// wasCompared reports whether the image was compared with what.
func (c *Contents) wasCompared(what string) bool {
	return slices.Contains(strings.Split(c.Compared, ", "), what)
}

// compared records that the image is equal to what.
func (c *Contents) compared(what string) {
	c.Compared = strings.TrimPrefix(c.Compared+", "+what, ", ")
	c.NotCompared = c.notCompared()
}

// rebuilt records that the image is equal to its rebuild, and why its packages are not those of Debian's lists.
func (c *Contents) rebuilt(unlisted error) {
	c.unlisted = unlisted
	c.compared(comparedRebuild)
	if unlisted == nil {
		c.compared(comparedLists)
	}
}

func sumOf(r io.Reader) (string, error) {
	h := sha256.New()
	_, err := io.Copy(h, r)
	return hex.EncodeToString(h.Sum(nil)), err
}

// sumRange returns the digest of a range of a file. It stops when ctx ends.
func sumRange(ctx context.Context, r io.ReaderAt, start, size int64) (string, error) {
	h := sha256.New()
	for done := int64(0); done < size; {
		n, err := io.Copy(h, io.NewSectionReader(r, start+done, min(64*mib, size-done)))
		if err = cmp.Or(err, ctx.Err()); err != nil {
			return "", err
		}
		if n == 0 {
			return "", io.ErrUnexpectedEOF
		}
		done += n
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// CompareRoot refuses an image whose root.json differs from root. The error wraps
// manifest.ErrUntrusted.
func (c *Contents) CompareRoot(root []byte) error {
	if _, err := manifest.ParseRoot(root); err != nil {
		return err
	}
	if c.root == nil {
		return optionsf("image %s: an initramfs of the target role has no root.json to compare", c.Image)
	}
	if sum := sha256.Sum256(root); !bytes.Equal(root, c.root) {
		return fmt.Errorf("image %s: root.json has sha256 %s, want %x; do not boot it: %w", c.Image, c.RootSum, sum, manifest.ErrUntrusted)
	}
	if err := c.compareRenewedRoots(root); err != nil {
		return err
	}
	c.compared(comparedRoot)
	return nil
}
