package machine

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/phaseboot/phaseboot/bootclient"
	"github.com/phaseboot/phaseboot/internal/file"
	"github.com/phaseboot/phaseboot/manifest"
)

// A machine without a cache partition counts the starts of releases in a variable of its UEFI firmware, if the mode may
// write. Flash memory wears out, so the boot writes only before the start of a release that no target has blessed, at most
// maxCounted times for each content, and the target once, when it blesses it.
const (
	triesName     = "PhaseBootTries" // messages name it
	triesVariable = triesName + "-faf04bdd-9345-4f43-8628-84c3442a576b"

	maxTriesVariable = 1 << 10 // bytes of its value
	maxTriesReleases = 4       // contents in it
	maxCounted       = bootclient.MaxTries + maxDoublings

	variablesDir = "/run/phase-efivars" // where the variables are mounted for a moment

	// variableAttributes are those of a variable that is kept and that the running system may write (UEFI 2.10,
	// section 8.2): non-volatile, boot service access, runtime access.
	variableAttributes = 1 | 2 | 4

	immutableFlag = 0x10 // FS_IMMUTABLE_FL of linux/fs.h
)

// errNoVariables is the error for a firmware whose variables the kernel does not reach.
var errNoVariables = errors.New("the firmware has no EFI variables")

// A triedRelease is what the variable says about a content.
type triedRelease struct {
	Content string `json:"content"`
	Channel string `json:"channel"`
	Arch    string `json:"arch"`
	First   int64  `json:"number"`
	Starts  int    `json:"starts,omitempty"`
	Blessed bool   `json:"blessed,omitempty"`
}

// withVariables mounts the EFI variables, calls do with their folder, and unmounts them.
func withVariables(write bool, do func(dir string) error) error {
	_ = loadModule("efivarfs") // fails if it is built in, without UEFI, and in the system of a target
	if err := os.MkdirAll(variablesDir, 0o700); err != nil {
		return err
	}
	flags := uintptr(noPrograms | unix.MS_RDONLY)
	if write {
		flags = noPrograms
	}
	if err := unix.Mount("efivarfs", variablesDir, "efivarfs", flags, ""); err != nil {
		_ = os.Remove(variablesDir)
		return errNoVariables
	}
	err := do(variablesDir)
	return errors.Join(err, unix.Unmount(variablesDir, unix.MNT_DETACH), os.Remove(variablesDir))
}

// readTries reads the variable. One that is not there is empty.
func readTries(dir string) (h health, err error) {
	data, err := file.Read(filepath.Join(dir, triesVariable), file.NoFollow, maxTriesVariable)
	if errors.Is(err, fs.ErrNotExist) {
		return h, nil
	}
	var list []triedRelease
	if err == nil {
		err = json.Unmarshal(data[min(4, len(data)):], &list)
	}
	if err == nil && len(list) > maxTriesReleases {
		err = fmt.Errorf("%d releases; at most %d are kept", len(list), maxTriesReleases)
	}
	if err != nil {
		return health{}, fmt.Errorf("EFI variable %s: %w", triesName, err)
	}
	for _, t := range list {
		if _, err := manifest.RoleName(t.Channel, t.Arch); err == nil {
			h.Releases = append(h.Releases, contentHealth{Content: t.Content, Channel: t.Channel, Arch: t.Arch, First: t.First, Starts: max(t.Starts, 0), Blessed: t.Blessed})
		}
	}
	return h, nil
}

// writeTries writes the variable: in one call of write(2), as the kernel asks for (Documentation/filesystems/efivarfs.rst).
func writeTries(dir string, h health) error {
	list := []triedRelease{}
	for _, c := range h.Releases {
		list = append(list, triedRelease{Content: c.Content, Channel: c.Channel, Arch: c.Arch, First: c.First, Starts: c.Starts, Blessed: c.Blessed})
	}
	value := append([]byte{variableAttributes, 0, 0, 0}, marshal(list)...)
	if len(value) > maxTriesVariable {
		return fmt.Errorf("EFI variable %s: %d bytes; at most %d", triesName, len(value), maxTriesVariable)
	}
	path := filepath.Join(dir, triesVariable)
	defer protect(path, true) // as the kernel does, against an `rm -r` of the running system
	protect(path, false)
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return err
	}
	n, err := unix.Write(int(f.Fd()), value)
	if err == nil && n < len(value) {
		err = fs.ErrInvalid
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("EFI variable %s: %w", triesName, err)
	}
	return nil
}

// protect sets or removes the flag that makes a variable immutable (chattr(1)). A kernel that has none needs none.
func protect(path string, on bool) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return
	}
	defer f.Close()
	flags, err := unix.IoctlGetInt(int(f.Fd()), unix.FS_IOC_GETFLAGS)
	if err != nil {
		return
	}
	if on {
		flags |= immutableFlag
	} else {
		flags &^= immutableFlag
	}
	_ = unix.IoctlSetPointerInt(int(f.Fd()), unix.FS_IOC_SETFLAGS, flags)
}

// countStart adds a start of a release to the variable, before the jump. A release that was blessed, or was started often
// enough, costs no write.
func countStart(dir string, s startedRelease) error {
	h, err := readTries(dir)
	if err != nil { // begins again
		path := filepath.Join(dir, triesVariable)
		protect(path, false)
		if err := os.Remove(path); err != nil {
			return err
		}
	}
	if c := h.of(s.Content); c.Blessed || c.Starts >= maxCounted {
		if !h.stop(s) {
			return nil
		}
		return writeTries(dir, h)
	}
	h.start(s, maxTriesReleases)
	return writeTries(dir, h)
}

// blessTries marks a content in the variable as blessed. The error wraps fs.ErrNotExist if it has no start of the content.
func blessTries(dir, content string) error {
	h, err := readTries(dir)
	if err != nil {
		return err
	}
	i := h.find(content)
	if i < 0 {
		return fmt.Errorf("EFI variable %s: no start of this release: %w", triesName, fs.ErrNotExist)
	}
	if c := h.Releases[i]; c.Blessed && c.Starts == 0 {
		return nil
	}
	h.bless(i)
	return writeTries(dir, h)
}

// readVariable reads how often releases were started on a machine without a cache.
func (b *boot) readVariable() {
	err := withVariables(false, func(dir string) (err error) {
		b.health, err = readTries(dir)
		return err
	})
	if b.inFirmware = !errors.Is(err, errNoVariables); !b.inFirmware {
		return
	}
	if err != nil {
		b.report.Say("tries: %v; they begin at 0", err)
	}
	b.config.Blessed = b.health.blessed("", b.config.Channel, b.config.Arch)
	b.config.Starts = b.starts
}
