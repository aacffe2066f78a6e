package machine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/phaseboot/phaseboot/bootclient"
	"github.com/phaseboot/phaseboot/internal/bootargs"
	"github.com/phaseboot/phaseboot/internal/file"
	"github.com/phaseboot/phaseboot/internal/refusal"
	"github.com/phaseboot/phaseboot/manifest"
	"github.com/phaseboot/phaseboot/modes"
)

const (
	// nextName is the file of the hand-over with which the target finds and starts the next release as the boot would.
	nextName = "next.json"
	// nextCache is where the target has the cache partition for that: read-only, except while a program writes it.
	nextCache = "/run/phase-rw/next"
	// nextMark is the file on which each program that writes to it has a shared lock.
	nextMark = "/run/phase-rw/writing"
)

// A nextHandOver is what the boot knew beyond the release, the mode and the root.
type nextHandOver struct {
	Cmdline   string    `json:"command_line"` // of the boot kernel: the hints, and what the next kernel gets of it
	Channel   string    `json:"channel"`
	Arch      string    `json:"arch"`
	MachineID string    `json:"machine_id,omitempty"`
	Groups    []string  `json:"groups,omitempty"`
	Selectors []string  `json:"selectors,omitempty"`
	Heard     []string  `json:"heard,omitempty"` // mirrors that DHCP servers have named
	Floor     time.Time `json:"floor,omitzero"`  // build time of the image
	StaleBy   string    `json:"stale_by,omitempty"`
	Removable bool      `json:"removable,omitempty"` // the cache partition is on a disk that may be unplugged
}

// nextFile returns the file with which the target finds and starts the next release, none if the mode or the machine
// forbids it.
func (b *boot) nextFile() []handedFile {
	if forbidsNext(b.config.Mode) != "" || b.config.Cache == "" {
		return nil
	}
	next := nextHandOver{
		Channel: b.config.Channel, Arch: b.config.Arch, MachineID: b.config.Machine.ID, Groups: b.config.Machine.Groups,
		Selectors: b.config.Machine.Selectors, Floor: b.config.Floor, StaleBy: b.config.StaleBy, Removable: b.removable, Cmdline: b.bootLine,
	}
	if b.config.Heard != nil {
		next.Heard, _ = b.config.Heard()
	}
	return []handedFile{{nextName, 0o600, append(marshal(next), '\n')}}
}

// forbidsNext returns why a target of a mode neither looks for the next release nor starts it, "" if it may.
func forbidsNext(m modes.Mode) string {
	switch {
	case m.RandomMAC, m.Proxy != "":
		return "the mode is private"
	case m.Cache != "rw":
		return "the boot may not write to a cache partition"
	}
	return ""
}

// A running is what the target knows of its boot.
type running struct {
	dir     string // the hand-over
	next    nextHandOver
	release manifest.Release
	mode    modes.Mode
	config  bootclient.Config // as the boot had it, without a cache
	args    bootargs.Arguments
}

// readRunning reads the hand-over. The error wraps fs.ErrInvalid if the boot mode forbids what verb does.
func readRunning(dir, verb string) (*running, error) {
	r := &running{dir: dir, mode: handedMode(dir)}
	if !readHanded(filepath.Join(dir, "release.json"), &r.release) {
		return nil, fmt.Errorf("%s: %s: %w; run it in a system that Phase Boot has started", verb, filepath.Join(dir, "release.json"), fs.ErrNotExist)
	}
	if why := forbidsNext(r.mode); why != "" {
		return nil, refusal.Invalid("%s: mode %s: %s; restart the machine to get a newer release", verb, r.mode.Name, why)
	}
	data, err := file.Read(filepath.Join(dir, nextName), file.NoFollow, maxHanded)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%s: %w: the boot has handed over no %s: it had no cache partition, or its image is older than this program; restart the machine to get a newer release", verb, fs.ErrNotExist, nextName)
	}
	if err == nil {
		err = json.Unmarshal(data, &r.next)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %s: %w", verb, nextName, err)
	}
	return r, r.configure()
}

// configure makes the configuration of the boot again.
func (r *running) configure() error {
	r.args = bootargs.Parse(r.next.Cmdline)
	r.config = bootclient.Config{
		Channel: r.next.Channel, Arch: r.next.Arch, Mode: r.mode, Mirrors: r.args.Mirrors, Peers: r.args.Peers, Bootstrap: r.args.Bootstrap,
		Machine: manifest.Machine{ID: r.next.MachineID, Groups: r.next.Groups, Selectors: r.next.Selectors},
		Floor:   r.next.Floor, StaleBy: r.next.StaleBy, Now: time.Now, ClockUnsure: true, KernelArgs: true,
	}
	var err error
	if r.config.Root, err = file.Read(filepath.Join(r.dir, seedRoot), file.NoFollow, manifest.MaxRoot); err != nil {
		return fmt.Errorf("root of trust: %w", err)
	}
	useProxy(&r.config, r.args.Proxy)
	if len(r.next.Heard) > 0 {
		r.config.Heard = func() ([]string, <-chan struct{}) { return r.next.Heard, nil }
	}
	return nil
}

// useCache completes the configuration with a cache, and with what it knows about started releases.
func (r *running) useCache(dir string) {
	r.config.Cache = dir
	h, err := readHealth(dir)
	if err != nil {
		return // the tries begin at 0, as in a boot
	}
	if i := h.find(h.Started); i >= 0 {
		if _, err := readStart(dir); errors.Is(err, fs.ErrNotExist) { // its target has blessed it, and no boot has noted that yet
			h.bless(i)
		}
	}
	r.config.Blessed = h.blessed(dir, r.config.Channel, r.config.Arch)
	r.config.Starts = r.startsBeside(func(rel manifest.Release) (n int, blessed bool) {
		if rel.Bless == 0 || r.next.Removable && !h.anyBlessed() {
			return 0, false
		}
		known := h.of(rel.Content())
		return known.Starts, known.Blessed
	})
}

// startsBeside counts no start of the running release: it runs.
func (r *running) startsBeside(starts func(manifest.Release) (int, bool)) func(manifest.Release) (int, bool) {
	return func(rel manifest.Release) (int, bool) {
		n, blessed := starts(rel)
		if rel.Content() == r.release.Content() {
			n = 0
		}
		return n, blessed
	}
}

// wants reports whether this machine uses an artifact: of the device trees one at most.
func wants(r manifest.Release, role string) bool {
	return !isDeviceTree(role) || role == deviceTreeOf(r, compatible(compatibleFile))
}

// prepareNext is the step of the target that makes the cache partition and this program available to phase-boot watch and
// phase-boot switch.
func (t *targetBoot) prepareNext(ctx context.Context) (string, error) {
	var next nextHandOver
	if !readHanded(filepath.Join(runDir, nextName), &next) {
		return "off", nil
	}
	var err error
	switch {
	case next.Removable: // its driver may come with the root filesystem: whoever needs the partition mounts it
	case t.cacheMounted:
		err = bindFolder(confirmDir, nextCache)
	default: // first for writing: a mount without its journal could not be made writable later
		if _, err = mountFoundCache(ctx, t.newDisk, nextCache, true); err == nil {
			err = setReadOnly(nextCache, true)
		}
	}
	if err := errors.Join(err, t.bindProgram()); err != nil {
		return "", errors.Join(err, os.Remove(filepath.Join(runDir, nextName)))
	}
	return "by phase-boot watch and phase-boot switch", nil
}

// isReadOnly reports whether nothing can be written below a folder.
func isReadOnly(dir string) bool {
	var disk unix.Statfs_t
	return unix.Statfs(dir, &disk) != nil || disk.Flags&unix.ST_RDONLY != 0
}

// bindFolder makes the files of a mounted cache partition available at another folder.
func bindFolder(from, to string) error {
	if err := os.MkdirAll(to, 0o700); err != nil {
		return err
	}
	if err := unix.Mount(from, to, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("mount %s: %w", to, err)
	}
	return nil
}

// setReadOnly makes a file system read-only or writable, in all mount namespaces. The mount at dir stays writable: a
// service has a copy of it, whose flag nobody could change.
func setReadOnly(dir string, on bool) error {
	const flags = unix.MS_REMOUNT | noPrograms | unix.MS_NOSYMFOLLOW
	var readOnly uintptr
	if on {
		readOnly = unix.MS_RDONLY
	}
	if err := unix.Mount("", dir, "", flags|readOnly, ""); err != nil {
		return err
	}
	return unix.Mount("", dir, "", flags|unix.MS_BIND, "")
}

// OpenNextCache lets programs write to the cache partition of a running target. It needs root.
func OpenNextCache(ctx context.Context) error {
	if _, err := readRunning(runDir, "cache"); err != nil {
		return err
	}
	if !mounted(nextCache) {
		if _, err := mountFoundCache(ctx, nil, nextCache, true); err != nil {
			return fmt.Errorf("%w; plug the disk with the cache partition in, or load its driver, and try again", err)
		}
	} else if err := setReadOnly(nextCache, false); err != nil {
		return fmt.Errorf("cache: %s cannot be made writable: %w; run it as root", nextCache, err)
	}
	return nil
}

// lockMark opens the mark and locks it with flock(2). The lock ends with the file, and with the process.
func lockMark(how int) (*os.File, error) {
	if err := os.MkdirAll(filepath.Dir(nextMark), 0o700); err != nil {
		return nil, fmt.Errorf("%w; run it as root", err)
	}
	mark, err := os.OpenFile(nextMark, os.O_RDONLY|os.O_CREATE, 0o600)
	if errors.Is(err, unix.EROFS) { // the service may not write here
		mark, err = os.Open(nextMark)
	}
	if err != nil {
		return nil, fmt.Errorf("%w; run it as root", err)
	}
	if err := unix.Flock(int(mark.Fd()), how); err != nil {
		mark.Close()
		return nil, fmt.Errorf("lock %s: %w", nextMark, err)
	}
	return mark, nil
}

// CloseNextCache ends that. While another program writes to the partition, or the start of the release waits for its blessing,
// it stays writable.
func CloseNextCache() error {
	mark, err := lockMark(unix.LOCK_EX | unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		return nil // the other program calls this at its end
	}
	if err != nil {
		return err
	}
	defer mark.Close()
	if !mounted(nextCache) || isReadOnly(nextCache) || mounted(confirmDir) {
		return nil
	}
	unix.Sync()
	if err := setReadOnly(nextCache, true); err != nil {
		return fmt.Errorf("cache: %s stays writable: %w", nextCache, err)
	}
	return nil
}

// openCache returns a cache that may be written, cache itself unless it is "". leave makes the cache partition read-only
// again, unless another program writes to it.
func openCache(ctx context.Context, cache string) (dir string, leave func() error, err error) {
	if cache != "" && cache != nextCache {
		return cache, func() error { return nil }, nil
	}
	mark, err := lockMark(unix.LOCK_SH)
	if err != nil {
		return "", nil, err
	}
	if cache != "" { // the unit of the service opens and closes it
		return cache, mark.Close, nil
	}
	if err := OpenNextCache(ctx); err != nil {
		mark.Close()
		return "", nil, err
	}
	return nextCache, func() error { return errors.Join(mark.Close(), CloseNextCache()) }, nil
}

// openCacheReadOnly returns a cache that is only read, cache itself unless it is "". It makes nothing writable.
func openCacheReadOnly(ctx context.Context, cache string) (dir string, leave func() error, err error) {
	nothing := func() error { return nil }
	switch {
	case cache != "":
		return cache, nothing, nil
	case mounted(nextCache):
		return nextCache, nothing, nil
	}
	if _, err := mountFoundCache(ctx, nil, nextCache, false); err != nil {
		return "", nil, fmt.Errorf("%w; plug the disk with the cache partition in, or load its driver, and try again", err)
	}
	return nextCache, func() error { return unix.Unmount(nextCache, 0) }, nil // a mount for reading could not be made writable later
}
