package machine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/phaseboot/phaseboot/bootclient"
	"github.com/phaseboot/phaseboot/internal/atomicfile"
	"github.com/phaseboot/phaseboot/internal/file"
	"github.com/phaseboot/phaseboot/manifest"
)

const (
	blessedName   = "blessed"  // in runDir: this start is blessed
	blessedStored = "stored\n" // its content when the cache knows that too
	// maxDoublings bounds the growth of the time for a blessing; manifest.MaxBless does so as well.
	maxDoublings = 8
	// cleanRestart is how long the target's system has to restart the machine by itself: systemd gives each unit 90 s to
	// stop (DefaultTimeoutStopSec).
	cleanRestart = 2 * time.Minute
	// signalReboot is SIGRTMIN+5, with which systemd as PID 1 restarts the machine (systemd(1)). Other
	// init programs ignore it.
	signalReboot = unix.Signal(39)
)

// A startHandOver is the file of the hand-over that names the record of the start.
type startHandOver struct {
	Name    string `json:"name"`
	Content string `json:"content"`
	// Bless is how long the target has to bless the start, in seconds; 0: the start is confirmed when the root
	// filesystem is mounted.
	Bless int64 `json:"bless"`
	// Variable: the start is counted in the firmware, and not on a cache partition.
	Variable bool `json:"efi_variable,omitempty"`
}

// handedStart returns the hand-over for the start of a release. Beyond the tries, when there is no older release or this one was
// blessed before, the time doubles with each start, so that a machine is not restarted all the time.
func (b *boot) handedStart(r manifest.Release) startHandOver {
	more := min(max(b.health.of(r.Content()).Starts+1-bootclient.MaxTries, 0), maxDoublings)
	return startHandOver{releaseName(r.Channel, r.Arch, r.Version, r.Number), r.Content(), min(r.Bless<<more, manifest.MaxBless), b.inFirmware}
}

func readHandedStart(path string) (s startHandOver, err error) {
	data, err := file.Read(path, file.NoFollow, maxRecord)
	if err == nil {
		err = json.Unmarshal(data, &s)
	}
	return s, err
}

// confirmStart is the step of the target that confirms its start, because the root filesystem is mounted. If the release
// asks for a blessing, it prepares that instead: the cache partition stays mounted, and the machine restarts without one.
func (t *targetBoot) confirmStart(ctx context.Context) (string, error) {
	handed, err := readHandedStart(filepath.Join(runDir, startName))
	if errors.Is(err, fs.ErrNotExist) {
		return "the boot has made no record of this start", nil
	}
	if err != nil {
		return "", err
	}
	if handed.Bless > 0 {
		if err := t.bindProgram(); err != nil {
			return "", err
		}
	}
	within := time.Duration(handed.Bless) * time.Second
	if handed.Variable {
		if err := withVariables(false, func(string) error { return nil }); err != nil { // also loads the driver, which the next root may lack
			return "", fmt.Errorf("EFI variable %s: %w: this start cannot be blessed, and the machine stays up", triesName, err)
		}
		return fmt.Sprintf("to be blessed in EFI variable %s within %s by phase-boot bless, or the machine restarts", triesName, within), t.startDeadline(handed.Bless)
	}
	device, err := mountFoundCache(ctx, t.newDisk, confirmDir, true)
	if err != nil {
		return "", err
	}
	if handed.Bless == 0 {
		err = errors.Join(removeRecord(confirmDir, handed), os.Remove(filepath.Join(runDir, startName)))
		return "confirmed on " + device, errors.Join(err, unix.Unmount(confirmDir, 0))
	}
	t.cacheMounted = true
	return fmt.Sprintf("to be blessed on %s within %s by phase-boot bless, or the machine restarts", device, within), t.startDeadline(handed.Bless)
}

// startDeadline starts the process that restarts the machine. It is no service of the target's system, which may hang.
// The folder of the hand-over is moved to the next root, so the process gets it open.
func (t *targetBoot) startDeadline(seconds int64) error {
	dir, err := os.Open(runDir)
	if err != nil {
		return err
	}
	defer dir.Close()
	kernelLog, err := os.OpenFile("/dev/kmsg", os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer kernelLog.Close()
	cmd := exec.Command("/proc/self/exe", "deadline", strconv.FormatInt(seconds, 10))
	cmd.Args[0], cmd.ExtraFiles, cmd.Stdout = "phase-boot", []*os.File{dir}, kernelLog
	cmd.Env, cmd.Dir = []string{"GOMAXPROCS=1"}, "/"
	return cmd.Start()
}

// Deadline is the process of startDeadline: it restarts the machine unless the start is blessed within a time. File 3 is
// the folder of the hand-over.
func Deadline(within time.Duration, w io.Writer) error {
	blessed := func() bool { return unix.Faccessat(3, blessedName, unix.F_OK, 0) == nil }
	if err := unix.Faccessat(3, startName, unix.F_OK, 0); err != nil || os.Getppid() != 1 {
		return errors.New("deadline: this is not the target of a release that asks for a blessing")
	}
	for end := time.Now().Add(within); time.Now().Before(end); time.Sleep(min(time.Second, within)) {
		if blessed() {
			return nil
		}
	}
	fmt.Fprintf(w, "<1>phase-boot: bless: nobody has blessed this start within %s; the machine restarts\n", within)
	if status, err := os.ReadFile("/proc/1/status"); err == nil && takesSignal(status, signalReboot) {
		_ = unix.Kill(1, signalReboot)
		time.Sleep(cleanRestart)
	}
	powerOff(unix.LINUX_REBOOT_CMD_RESTART)
	return errors.New("deadline: the kernel does not restart the machine")
}

// takesSignal reports whether a process catches a signal, or blocks it to read it from a signalfd as systemd does, by its
// status in /proc (proc(5)). The kernel drops every other signal to the first process.
func takesSignal(status []byte, signal unix.Signal) bool {
	for line := range strings.Lines(string(status)) {
		name, value, _ := strings.Cut(line, ":")
		if name != "SigCgt" && name != "SigBlk" {
			continue
		}
		if mask, err := strconv.ParseUint(strings.TrimSpace(value), 16, 64); err == nil && mask&(1<<(signal-1)) != 0 {
			return true
		}
	}
	return false
}

// Bless is `phase-boot bless`: it says that the system of the target works, so that the next boot counts this start as
// a good one. It removes the record of the start from the cache partition.
func Bless(ctx context.Context, w io.Writer) error { return bless(ctx, w, runDir, openBlessed) }

func bless(ctx context.Context, w io.Writer, dir string, open func(context.Context) (cache string, leave func() error, err error)) error {
	if _, err := os.Stat(filepath.Join(dir, "release.json")); err != nil {
		return fmt.Errorf("bless: %w; run it in a system that Phase Boot has started", err)
	}
	handed, err := readHandedStart(filepath.Join(dir, startName))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		_, err = fmt.Fprintln(w, "nothing to bless: this start is not counted, or it was confirmed")
		return err
	case err != nil:
		return fmt.Errorf("bless: %s: %w", startName, err)
	}
	done := filepath.Join(dir, blessedName)
	if state, err := os.ReadFile(done); err == nil && string(state) == blessedStored {
		_, err = fmt.Fprintln(w, "blessed before:", handed.Name)
		return err
	}
	// It ends the deadline. The system works, so the machine stays up also if the disk does not take the blessing.
	if err := os.WriteFile(done, nil, 0o644); err != nil {
		return err
	}
	if err := storeBlessing(ctx, handed, open); err != nil {
		return fmt.Errorf("bless: the machine stays up, but the next boot will count this start as one that failed: %w", err)
	}
	if err := os.WriteFile(done, []byte(blessedStored), 0o644); err != nil {
		return err
	}
	_, err = fmt.Fprintln(w, "blessed:", handed.Name)
	return err
}

// storeBlessing removes the record of the start, or changes the variable that counts it.
func storeBlessing(ctx context.Context, handed startHandOver, open func(context.Context) (cache string, leave func() error, err error)) error {
	if handed.Variable {
		err := withVariables(true, func(dir string) error { return blessTries(dir, handed.Content) })
		if errors.Is(err, fs.ErrNotExist) {
			err = nil // the boot could not write it
		}
		return err
	}
	cache, leave, err := open(ctx)
	if err != nil {
		return fmt.Errorf("the disk with the cache partition: %w; plug it in, or load its driver, and try again", err)
	}
	err = removeRecord(cache, handed)
	if errors.Is(err, fs.ErrNotExist) {
		err = nil // somebody has removed it
	}
	return errors.Join(err, leave())
}

// openBlessed returns the cache partition as the target's initramfs has mounted it, or mounts it.
func openBlessed(ctx context.Context) (dir string, leave func() error, err error) {
	if !mounted(confirmDir) {
		var err error
		if mounted(nextCache) { // its file system may be read-only, and then a second mount for writing is refused
			err = errors.Join(setReadOnly(nextCache, false), bindFolder(nextCache, confirmDir))
		} else {
			_, err = mountFoundCache(ctx, nil, confirmDir, true)
		}
		if err != nil {
			return "", nil, err
		}
	}
	return confirmDir, leaveBlessed, nil
}

// leaveBlessed unmounts the cache partition. A service that serves from it has a mount of its own, which stays, for reading only.
// The partition stays writable while phase-boot watch writes to it.
func leaveBlessed() error {
	mark, err := lockMark(unix.LOCK_EX | unix.LOCK_NB) // until it is unmounted no program opens it
	if errors.Is(err, unix.EWOULDBLOCK) {
		return unix.Unmount(confirmDir, unix.MNT_DETACH)
	}
	if err != nil {
		return errors.Join(err, unix.Unmount(confirmDir, unix.MNT_DETACH))
	}
	defer mark.Close()
	readOnly := unix.Mount("", confirmDir, "", unix.MS_REMOUNT|unix.MS_RDONLY|noPrograms|unix.MS_NOSYMFOLLOW, "")
	return errors.Join(readOnly, unix.Unmount(confirmDir, unix.MNT_DETACH))
}

// removeRecord removes the record of a start. The target may find another cache partition first than the boot did, and a
// record that could not be written leaves the one of before.
func removeRecord(dir string, handed startHandOver) error {
	s, err := readStart(dir)
	if err != nil {
		return err
	}
	if s.name() != handed.Name || s.Content != handed.Content {
		return fmt.Errorf("the record on the cache partition is of another start: %.200q", s.name())
	}
	if err := os.Remove(filepath.Join(dir, startRecord)); err != nil {
		return err
	}
	return atomicfile.SyncDir(filepath.Dir(filepath.Join(dir, startRecord)))
}
