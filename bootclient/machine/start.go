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
	"strings"
	"time"

	"github.com/phaseboot/phaseboot/bootclient"
	"github.com/phaseboot/phaseboot/bootclient/cache"
	"github.com/phaseboot/phaseboot/internal/atomicfile"
	"github.com/phaseboot/phaseboot/internal/file"
	"github.com/phaseboot/phaseboot/manifest"
)

// Files of the cache partition that say whether releases start on this machine. The boot writes a record before the
// jump, and keeps the manifest of the release. The target removes the record: when its root filesystem is mounted, or
// when `phase-boot bless` says that its system works, if the release asks for that. The next boot then knows the
// release as blessed; if the record is still there, the start counts as a try that failed.
const (
	startRecord = "start/record.json"
	startRole   = "start/manifest.json" // the release manifest of the record
	healthFile  = "start/health.json"
	goodDir     = "good" // has the manifests of the last blessed releases, one for each channel

	maxRecord  = 4 << 10               // bytes
	maxHealth  = 32                    // contents in healthFile
	startName  = "start-record"        // of the hand-over: a startHandOver
	confirmDir = "/run/phase-rw/cache" // where the target mounts the cache partition for that
	// avoidFile names the release that could not be booted. It is in memory, so a restart forgets it.
	avoidFile = "/run/phase-boot.avoid"
)

// A startedRelease is the record of a jump.
type startedRelease struct {
	Content string    `json:"content"` // as manifest.Release.Content
	Release string    `json:"release"`
	Channel string    `json:"channel"`
	Arch    string    `json:"arch"`
	Number  int64     `json:"role_version"`
	First   int64     `json:"number"` // as manifest.Release.ContentNumber
	At      time.Time `json:"at"`
	Starts  int       `json:"starts"` // of this content without a confirmation

	Settings int64 `json:"settings,omitempty"` // version of the machines' settings
	Chosen   bool  `json:"-"`                  // as manifest.Verified.Chosen
}

// record returns the record of the start of the release.
func (b *boot) record() startedRelease {
	s := startOf(b.release, b.settings)
	s.Chosen = b.chosen
	return s
}

// startOf returns the record of a start of r with a version of the machines' settings.
func startOf(r manifest.Release, settings int64) startedRelease {
	return startedRelease{
		Content: r.Content(), Release: r.Version, Channel: r.Channel, Arch: r.Arch, Number: r.Number, First: r.ContentNumber(),
		At: time.Now().UTC(), Settings: settings,
	}
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
		return "", blessStarted(dir)
	case errors.Is(err, fs.ErrNotExist):
		return "", nil
	case err != nil && write:
		// A power cut damaged it, or it is a foreign file. Whether that release has started is not known.
		return "", errors.Join(err, forgetStarted(dir), os.RemoveAll(filepath.Join(dir, startRecord)))
	case err != nil:
		return "", err
	}
	words := fmt.Sprintf("%.200s was started on %s and has not confirmed it: it stopped before its system worked, or its system does not remove %s",
		s.name(), s.At.UTC().Format(time.RFC3339), startRecord)
	if s.Starts > 1 {
		words += fmt.Sprintf("; %d starts without a confirmation", s.Starts)
	}
	return words, nil
}

// blessStarted marks the release whose record is gone as blessed, and keeps its manifest.
func blessStarted(dir string) error {
	h, err := readHealth(dir)
	i := h.find(h.Started)
	if err != nil || i < 0 {
		return err
	}
	from, to := filepath.Join(dir, startRole), filepath.Join(dir, goodManifest(h.Releases[i].Channel, h.Releases[i].Arch))
	if err := file.Check(from, file.NoFollow); err == nil {
		if err := errors.Join(makeFolder(filepath.Dir(to)), os.RemoveAll(to)); err != nil {
			return err
		}
		if err := errors.Join(os.Rename(from, to), atomicfile.SyncDir(filepath.Dir(to))); err != nil {
			return err
		}
	}
	h.bless(i)
	h.Started = ""
	return h.write(dir)
}

// forgetStarted makes an absent record say nothing.
func forgetStarted(dir string) error {
	h, err := readHealth(dir)
	if err != nil || h.Started == "" {
		return err
	}
	h.Started = ""
	return h.write(dir)
}

func goodManifest(channel, arch string) string {
	return filepath.Join(goodDir, channel+"-"+arch+".json")
}

// makeFolder makes a folder, in place of a link or a file that an attacker made.
func makeFolder(dir string) error {
	if err := file.CheckFolder(dir); errors.Is(err, file.ErrKind) {
		if err := os.RemoveAll(dir); err != nil {
			return err
		}
	}
	return os.MkdirAll(dir, 0o700)
}

// writeStart writes the record of a jump, the manifest, and the number of starts.
func writeStart(dir string, s startedRelease) error {
	for _, step := range startSteps(dir, s) {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

// startSteps are the writes of writeStart. A power cut after any of them, or in it, leaves the number of starts as it was
// before or one more, and makes no release good that has not started: an absent record counts only for the release that healthFile
// names as started, which is none until the record is there.
func startSteps(dir string, s startedRelease) []func() error {
	h, err := readHealth(dir)
	before := h
	before.Started = ""
	h.start(s, maxHealth)
	s.Starts = h.Releases[len(h.Releases)-1].Starts
	return []func() error{
		func() error { return errors.Join(err, makeFolder(filepath.Join(dir, filepath.Dir(startRecord)))) },
		func() error { return before.write(dir) },
		func() error { return os.RemoveAll(filepath.Join(dir, startRole)) }, // of an earlier start, which this one must not confirm
		func() error { return writeFresh(filepath.Join(dir, startRecord), marshal(s)) },
		func() error { return keepManifest(dir, s) },
		func() error { return h.write(dir) },
	}
}

// writeFresh writes a file, also in place of a folder or link that an attacker made.
func writeFresh(path string, data []byte) error {
	if errors.Is(file.Check(path, file.NoFollow), file.ErrKind) {
		if err := os.RemoveAll(path); err != nil {
			return err
		}
	}
	return atomicfile.Write(path, 0o600, data)
}

// keepManifest keeps the saved manifest if it has the release. It is that of the newest one, also if another one was
// booted because that one could not be.
func keepManifest(dir string, s startedRelease) error {
	names, _ := filepath.Glob(filepath.Join(cache.Dir(dir).Trust(), "*", s.Channel+"-"+s.Arch+".json")) // both are names without patterns
	for _, name := range names[:min(len(names), maxSaved)] {
		var role struct{ Signed struct{ Version int64 } }
		data, err := file.Read(name, file.NoFollow, maxSavedFile)
		if err == nil && json.Unmarshal(data, &role) == nil && role.Signed.Version == s.Number {
			return writeFresh(filepath.Join(dir, startRole), data)
		}
	}
	return nil
}

// recordStart writes the record of the jump, if the mode lets the boot write. A boot goes on after an error: it is reported.
func (b *boot) recordStart() error {
	if b.inFirmware && b.release.Bless > 0 {
		err := withVariables(true, func(dir string) error { return countStart(dir, b.record()) })
		if err != nil {
			b.report.Say("tries: this start is not counted: %v", err)
		}
	}
	if !b.recordsStart(b.release) {
		return nil
	}
	err := file.FullDisk(writeStart(b.config.Cache, b.record()))
	if err != nil {
		b.report.Say("last start: no record of this start: %v", err)
	}
	return err
}

// recordsStart reports whether the jump to a release gets a record. On a stick that needs a release whose target reaches
// the stick later: no initramfs has the driver.
func (b *boot) recordsStart(r manifest.Release) bool {
	return b.config.Cache != "" && b.config.Mode.Cache == "rw" && (!b.removable || r.Bless > 0)
}

// counts reports whether the starts of a release are counted: its target must know how to bless. On a stick, another
// release must have blessed a start before, as a proof that a target reaches it.
func (b *boot) counts(r manifest.Release) bool {
	return r.Bless > 0 && (b.inFirmware || b.recordsStart(r) && (!b.removable || b.health.anyBlessed()))
}

// readStarts reports that the last start was not confirmed, and reads how often releases were started.
func (b *boot) readStarts() {
	b.config.Starts, b.config.Blessed, b.inFirmware = nil, nil, false
	if b.config.Cache == "" {
		if b.mayWrite {
			b.readVariable()
		}
		return
	}
	words, err := lastStart(b.config.Cache, b.config.Mode.Cache == "rw")
	switch {
	case err != nil:
		b.report.Say("last start: %v", err)
	case words != "":
		b.report.Begin("last start").Done("%s", words)
	}
	if b.health, err = readHealth(b.config.Cache); err != nil {
		b.report.Say("tries: %v; they begin at 0", err)
		if b.config.Mode.Cache == "rw" {
			_ = os.RemoveAll(filepath.Join(b.config.Cache, healthFile)) // the next write says an error
		}
	}
	b.config.Blessed = b.health.blessed(b.config.Cache, b.config.Channel, b.config.Arch)
	if b.config.Mode.Cache == "rw" {
		b.config.Starts = b.starts
	}
}

// starts returns how often a release was started without a blessing, and whether it was ever blessed, for the search.
func (b *boot) starts(r manifest.Release) (n int, blessed bool) {
	if !b.counts(r) {
		return 0, false
	}
	known := b.health.of(r.Content())
	return known.Starts, known.Blessed
}

// sayTries says how often the release was tried, or why its starts are not counted.
func (b *boot) sayTries(r manifest.Release) {
	known := b.health.of(r.Content())
	n := known.Starts + 1
	switch {
	case r.Bless == 0:
	case b.inFirmware && n > 1 && !known.Blessed:
		b.report.Say("tries: start %d of release %s without a blessing; after %d, an older one is booted, if the newest manifest carries one that was blessed here", n, r.Version, bootclient.MaxTries)
	case b.inFirmware && !known.Blessed:
		b.report.Say("tries: the starts of release %s are counted in the firmware, EFI variable %s", r.Version, triesName)
	case b.inFirmware:
	case b.config.Cache == "" && b.mayWrite:
		b.report.Say("tries: the starts of release %s are not counted: this boot writes to no cache partition, and %v", r.Version, errNoVariables)
	case b.config.Cache == "" || b.config.Mode.Cache != "rw":
		b.report.Say("tries: the starts of release %s are not counted: this boot writes to no cache partition", r.Version)
	case !b.counts(r):
		b.report.Say("tries: the starts of release %s are not counted on this stick until a target has blessed one", r.Version)
	case n == 1:
	case !known.Blessed:
		b.report.Say("tries: start %d of release %s without a blessing; after %d, an older one is booted", n, r.Version, bootclient.MaxTries)
	case b.settings != known.BlessedSettings:
		b.report.Say("tries: start %d of release %s since its last blessing, which was with settings of version %d, and they are of version %d now; it has run here, so no older one is booted: check the settings",
			n, r.Version, known.BlessedSettings, b.settings)
	default:
		b.report.Say("tries: start %d of release %s since its last blessing; it has run here, so no older one is booted", n, r.Version)
	}
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
	if name == "" && b.report.FellBack() && !errors.Is(err, context.Canceled) {
		// No source has the older release. The next attempt tries the newest one again.
		_ = os.WriteFile(b.avoidFile, []byte(reportedRelease(b.report.Release())), 0o644)
		return false
	}
	if name == "" || name == refusedRelease(b.avoidFile) {
		return false
	}
	if err := os.WriteFile(b.avoidFile, []byte(name), 0o644); err != nil {
		return false
	}
	b.avoid(name)
	return b.config.Mode.Stale == "last-good" && b.config.Cache != "" && !b.config.LastGood
}
