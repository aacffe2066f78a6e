package imagebuild

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/phaseboot/phaseboot/imagebuild/diskformat"
	"github.com/phaseboot/phaseboot/internal/atomicfile"
	"github.com/phaseboot/phaseboot/internal/file"
)

// Names in a bundle of Parallels Desktop: a disk is a folder (.hdd) with a descriptor (QEMU's
// docs/interop/prl-xml describes it), an empty file, and the image. A virtual machine is a folder
// (.pvm) with its settings and the disk. The names do not depend on that of the bundle.
const (
	machineSuffix  = ".pvm"
	machineConfig  = "config.pvs"
	bundleDisk     = "harddisk.hdd"
	bundleSuffix   = ".hdd"
	diskDescriptor = "DiskDescriptor.xml"
	bundleImage    = bundleDisk + ".0.{5fbaabe3-6958-40ff-92a7-860e329aab41}.hds" // the GUID is that of a disk without snapshots
	maxBundleFile  = 64 << 10                                                     // bytes
)

// checkBundleOut refuses a path that cannot become a bundle. A folder that exists is not replaced.
func checkBundleOut(out string) error {
	out = filepath.Clean(out) // a folder's name may end with a slash
	if ext := filepath.Ext(out); ext != bundleSuffix && ext != machineSuffix {
		return optionsf("out %s: a Parallels disk is a folder; name it NAME.hdd, or NAME.pvm for a whole virtual machine", out)
	}
	if _, err := os.Lstat(out); err == nil {
		return optionsf("out %s: exists, and a folder is not replaced; remove it, or choose another name", out)
	}
	return checkOut(out)
}

// bundleTexts returns the files of a bundle beside its image, by path.
func bundleTexts(out string, size int64, id diskformat.ID) map[string][]byte {
	number := func(n int64) string { return strconv.FormatInt(n, 10) }
	const cylinder = diskformat.Heads * diskformat.Sectors * sector
	fill := strings.NewReplacer("@SECTORS@", number(size/sector), "@CYLINDERS@", number(size/cylinder), "@HEADS@", number(diskformat.Heads),
		"@TRACK@", number(diskformat.Sectors), "@UID@", id.GUID("disk"), "@UUID@", id.GUID("machine"), "@MIB@", number(size/mib))
	in := inBundle(out)
	texts := map[string][]byte{
		filepath.Join(in, diskDescriptor): []byte(fill.Replace(dataFile("parallels/DiskDescriptor.xml"))),
		filepath.Join(in, bundleDisk):     {},
	}
	if in != "" {
		texts[machineConfig] = []byte(fill.Replace(dataFile("parallels/config.pvs")))
	}
	return texts
}

// inBundle returns the path of the disk in a bundle: "" if the bundle is the disk.
func inBundle(bundle string) string {
	if filepath.Ext(filepath.Clean(bundle)) == machineSuffix {
		return bundleDisk
	}
	return ""
}

// writeBundle writes a raw disk as a bundle. The folder has its final name when it is complete.
func writeBundle(ctx context.Context, raw string, size int64, out string) (err error) {
	out = filepath.Clean(out)
	tmp, err := os.MkdirTemp(filepath.Dir(out), "."+filepath.Base(out)+".*")
	if err != nil {
		return file.FullDisk(err)
	}
	defer os.RemoveAll(tmp)
	disk := filepath.Join(tmp, inBundle(out))
	if err := os.MkdirAll(disk, 0o755); err != nil {
		return err
	}
	image := filepath.Join(disk, bundleImage)
	id, err := encode(ctx, raw, size, diskformat.Parallels, bundleImage, image)
	if err != nil {
		return err
	}
	for name, text := range bundleTexts(out, size, id) {
		if err := atomicfile.Write(filepath.Join(tmp, name), 0o644, text); err != nil {
			return err
		}
	}
	if err := errors.Join(os.Chmod(image, 0o644), os.Chmod(disk, 0o755), os.Chmod(tmp, 0o755), atomicfile.SyncDir(disk), atomicfile.SyncDir(tmp)); err != nil {
		return err
	}
	if err := unix.Renameat2(unix.AT_FDCWD, tmp, unix.AT_FDCWD, out, unix.RENAME_NOREPLACE); err != nil {
		return &fs.PathError{Op: "write", Path: out, Err: err}
	}
	return atomicfile.SyncDir(filepath.Dir(out))
}

// imageFile returns the file that has the bytes of an image: of a bundle its disk image, else the
// image itself.
func imageFile(image string) (path string, bundle bool) {
	for _, marker := range []string{diskDescriptor, machineConfig} {
		if _, err := os.Lstat(filepath.Join(image, marker)); err == nil {
			return filepath.Join(image, inBundle(image), bundleImage), true
		}
	}
	return image, false
}

// checkBundle refuses a bundle with another file than writeBundle makes. A settings file could name
// another disk, and the descriptor another image.
func checkBundle(bundle string, size int64, id diskformat.ID) error {
	want := bundleTexts(bundle, size, id)
	want[filepath.Join(inBundle(bundle), bundleImage)] = nil // was read
	err := filepath.WalkDir(bundle, func(path string, e fs.DirEntry, err error) error {
		name, relErr := filepath.Rel(bundle, path)
		if err := errors.Join(err, relErr); err != nil {
			return err
		}
		text, known := want[name]
		switch {
		case e.IsDir() && (name == "." || name == inBundle(bundle)):
			return nil
		case !known || !e.Type().IsRegular():
			return badImage("%.120q", name)
		}
		delete(want, name)
		if text == nil {
			return nil
		}
		have, err := file.Read(path, file.NoFollow, maxBundleFile)
		if err == nil && !bytes.Equal(have, text) {
			err = badImage("%s does not describe its disk", name)
		}
		return err
	})
	if err == nil && len(want) > 0 {
		err = badImage("no %s", slices.Sorted(maps.Keys(want))[0])
	}
	return err
}
