package machine

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/phaseboot/phaseboot/bootclient"
	"github.com/phaseboot/phaseboot/bootclient/cache"
	"github.com/phaseboot/phaseboot/internal/atomicfile"
	"github.com/phaseboot/phaseboot/internal/file"
	"github.com/phaseboot/phaseboot/manifest"
)

// Files of the cache partition that say whether the last release has started. The boot writes a record
// before the jump, with a copy of the trusted metadata. The target removes the record when its root
// filesystem is mounted. The next boot then keeps the copy as that of the last release that has
// started, and otherwise says that the release has not.
const (
	startRecord = "start/record.json"
	startTrust  = "start/trust"
	// goodTrust has the trusted metadata of the last release that has started.
	goodTrust = bootclient.StartedTrust

	maxRecord  = 4 << 10         // bytes
	startName  = "start-record"  // of the hand-over: the target removes the record
	confirmDir = "/run/phase-rw" // where the target mounts the cache partition for that
	// avoidFile names the release that could not be booted. It is in memory, so a restart forgets it.
	avoidFile = "/run/phase-boot.avoid"
)

// A startedRelease is the record of a jump.
type startedRelease struct {
	Release string    `json:"release"`
	Channel string    `json:"channel"`
	Arch    string    `json:"arch"`
	Number  int64     `json:"role_version"`
	At      time.Time `json:"at"`
	Starts  int       `json:"starts"` // of this release in a row without a confirmation
}

func (s startedRelease) name() string { return releaseName(s.Channel, s.Arch, s.Release, s.Number) }

// readStart returns the record of the last jump. The error wraps fs.ErrNotExist if its target has
// removed it.
func readStart(dir string) (s startedRelease, err error) {
	data, err := file.Read(filepath.Join(dir, startRecord), file.NoFollow, maxRecord)
	if err == nil {
		err = json.Unmarshal(data, &s)
	}
	return s, err
}

// lastStart reads at the begin of a boot how the last start has ended. It returns words for the report if
// the target did not remove the record.
func lastStart(dir string, write bool) (string, error) {
	s, err := readStart(dir)
	switch {
	case errors.Is(err, fs.ErrNotExist) && write:
		return "", keepGood(dir)
	case errors.Is(err, fs.ErrNotExist):
		return "", nil
	case err != nil && write:
		// A power cut damaged it, or it is a foreign file. Whether that release has started is not known, so its metadata go too.
		return "", errors.Join(err, os.RemoveAll(filepath.Dir(filepath.Join(dir, startRecord))))
	case err != nil:
		return "", err
	}
	words := fmt.Sprintf("%.200s was started on %s and has not confirmed it: it stopped between the jump and its root filesystem, or its system does not remove %s",
		s.name(), s.At.UTC().Format(time.RFC3339), startRecord)
	if s.Starts > 1 {
		words += fmt.Sprintf("; %d starts in a row", s.Starts)
	}
	return words, nil
}

// keepGood keeps the metadata of a release that has started. A crash in between leaves one of the two
// copies, or none, and every copy is verified again before it is used.
func keepGood(dir string) error {
	from, to := filepath.Join(dir, startTrust), filepath.Join(dir, goodTrust)
	if err := file.CheckFolder(from); errors.Is(err, fs.ErrNotExist) {
		return nil
	} else if err != nil {
		return errors.Join(err, os.RemoveAll(filepath.Dir(from)))
	}
	if err := errors.Join(os.RemoveAll(filepath.Dir(to)), os.MkdirAll(filepath.Dir(to), 0o700)); err != nil {
		return err
	}
	return os.Rename(from, to)
}

// writeStart writes the record of a jump and the copy of the metadata. The record comes first: a power cut
// in between must not make a release good that has never started.
func writeStart(dir string, s startedRelease) error {
	s.Starts = 1
	if before, err := readStart(dir); err == nil && before.name() == s.name() {
		s.Starts = before.Starts + 1
	}
	for _, folder := range []string{filepath.Dir(startRecord), filepath.Dir(goodTrust)} {
		if err := file.CheckFolder(filepath.Join(dir, folder)); errors.Is(err, file.ErrKind) {
			if err := os.RemoveAll(filepath.Join(dir, folder)); err != nil { // a link or a file that an attacker made
				return err
			}
		}
	}
	record, trust := filepath.Join(dir, startRecord), filepath.Join(dir, startTrust)
	if err := os.MkdirAll(filepath.Dir(record), 0o700); err != nil {
		return err
	}
	if err := os.RemoveAll(trust); err != nil { // of an earlier start, which this one must not confirm
		return err
	}
	if err := atomicfile.Write(record, 0o600, marshal(s)); err != nil {
		return err
	}
	if !hasSaved(cache.Dir(dir).Trust(), s) { // the release came from goodTrust, which stays
		return nil
	}
	if err := copyTrust(cache.Dir(dir).Trust(), trust); err != nil {
		return errors.Join(err, os.RemoveAll(trust)) // a part of it is of no use
	}
	return nil
}

// hasSaved reports whether the saved metadata are those of a release. They are those of the newest one,
// also if another one was booted because that one could not be.
func hasSaved(trust string, s startedRelease) bool {
	names, _ := filepath.Glob(filepath.Join(trust, "*", s.Channel+"-"+s.Arch+".json")) // both are names without patterns
	return slices.ContainsFunc(names[:min(len(names), maxSaved)], func(name string) bool {
		var role struct{ Signed struct{ Version int64 } }
		data, err := file.Read(name, file.NoFollow, maxSavedFile)
		return err == nil && json.Unmarshal(data, &role) == nil && role.Signed.Version == s.Number
	})
}

// copyTrust copies the trusted metadata. The sync before the jump makes the copy durable.
func copyTrust(from, to string) error {
	left := int64(maxSavedBytes)
	names, _ := filepath.Glob(filepath.Join(from, "*", "*.json")) // the pattern is valid
	for _, name := range names[:min(len(names), maxSaved)] {
		path, err := filepath.Rel(from, name)
		if err != nil {
			return err
		}
		data, err := file.Read(name, file.NoFollow, min(maxSavedFile, left))
		if errors.Is(err, file.ErrKind) {
			continue // a foreign folder or link
		}
		if err != nil {
			return err
		}
		left -= int64(len(data))
		to := filepath.Join(to, path)
		if err := errors.Join(os.MkdirAll(filepath.Dir(to), 0o700), os.WriteFile(to, data, 0o600)); err != nil {
			return err
		}
	}
	return nil
}

// recordStart writes the record of the jump, if the mode lets the boot write. A stick may be unplugged
// after the jump, and the target has no driver for it, so there is no record on one.
func (b *boot) recordStart() {
	if !b.startHanded {
		return
	}
	r := b.release
	err := writeStart(b.config.Cache, startedRelease{Release: r.Version, Channel: r.Channel, Arch: r.Arch, Number: r.Number, At: time.Now().UTC()})
	if err != nil {
		b.report.Say("last start: no record of this start: %v", file.FullDisk(err))
	}
}

func (b *boot) recordsStart() bool {
	return b.config.Cache != "" && b.config.Mode.Cache == "rw" && !b.removable
}

// sayLastStart reports that the last start was not confirmed.
func (b *boot) sayLastStart() {
	if b.config.Cache == "" {
		return
	}
	words, err := lastStart(b.config.Cache, b.config.Mode.Cache == "rw")
	switch {
	case err != nil:
		b.report.Say("last start: %v", err)
	case words != "":
		b.report.Begin("last start").Done("%s", words)
	}
}

// confirmStart is the step of the target that removes the record: the root filesystem is mounted.
func (t *targetBoot) confirmStart(ctx context.Context) (string, error) {
	if _, err := os.Stat(filepath.Join(runDir, startName)); err != nil {
		return "the boot has made no record of this start", nil
	}
	device, err := mountFoundCache(ctx, t.newDisk, confirmDir, true)
	if err != nil {
		return "", err
	}
	err = removeRecord(confirmDir, filepath.Join(runDir, startName))
	return "confirmed on " + device, errors.Join(err, unix.Unmount(confirmDir, 0))
}

// removeRecord removes the record of a start. handed is the file that names the release. This kernel may find
// another cache partition first than the boot did, and a record that could not be written leaves the one of before.
func removeRecord(dir, handed string) error {
	name, err := file.Read(handed, file.NoFollow, maxRecord)
	if err != nil {
		return err
	}
	s, err := readStart(dir)
	if err != nil {
		return err
	}
	if s.name() != strings.TrimSpace(string(name)) {
		return fmt.Errorf("the record on the cache partition is of another start: %.200q", s.name())
	}
	return os.Remove(filepath.Join(dir, startRecord))
}

// refusedRelease returns the release that could not be booted since the machine has started, "" if there
// is none.
func refusedRelease(path string) string {
	data, err := file.Read(path, file.NoFollow, maxRecord)
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(data))
}

// avoid makes the search take the last release that has started in place of a release that could not
// be booted, where the mode or a person allows it.
func (b *boot) avoid(name string) {
	b.config.Avoid = nil
	if name != "" {
		b.config.Avoid = func(r manifest.Release) bool {
			return releaseName(r.Channel, r.Arch, r.Version, r.Number) == name
		}
	}
}

// tryLastGood boots the last good release with run, in place of the one that failed with newest. If that one
// fails too, the next attempt begins with the newest release again: wrong bytes of a source, or too little
// memory, may pass, and no source may have the blocks of the last good one.
func (b *boot) tryLastGood(newest error, run func() error) error {
	b.report.Warn("release: %v; the last good release is tried, as %s allows", newest, cmp.Or(b.config.StaleBy, "mode "+b.config.Mode.Name))
	failed := refusedRelease(b.avoidFile)
	b.payload.Abort()
	err := run()
	if err == nil || reportedRelease(b.report.Release()) == failed { // no other has started here
		return err
	}
	b.failed = failed
	return errors.Join(fmt.Errorf("%w; the last good release: %v", newest, err), os.Remove(b.avoidFile))
}

// fallsBack reports whether the last good release is booted in place of the one that failed with err. It
// remembers that one until the machine restarts, or the last good release fails too.
func (b *boot) fallsBack(err error) bool {
	name := failedRelease(b.report.Release(), err)
	if name == "" || name == refusedRelease(b.avoidFile) {
		return false
	}
	if err := os.WriteFile(b.avoidFile, []byte(name), 0o644); err != nil {
		return false
	}
	b.avoid(name)
	return b.config.Mode.Stale == "last-good" && b.config.Cache != "" && !b.config.LastGood
}
