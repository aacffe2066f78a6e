package watch

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/phaseboot/phaseboot/bootclient"
	"github.com/phaseboot/phaseboot/bootclient/report"
	"github.com/phaseboot/phaseboot/internal/atomicfile"
	"github.com/phaseboot/phaseboot/internal/file"
)

// Files in the folder of notices. The first two have the names and the form that Debian gives them in /run: tools
// that tell of a pending restart read them.
const (
	requiredFile = "reboot-required"
	packagesFile = "reboot-required.pkgs"
	statusFile   = "status.json"

	requiredText  = "*** System restart required ***\n"
	packagePrefix = "phase-release="
	maxNotice     = 64 << 10 // bytes
)

// Failed is the state of a round with an error.
const Failed = "failed"

// A Status is the result of a round.
type Status struct {
	At        time.Time        `json:"at"`
	State     string           `json:"state"`   // one of bootclient.Ahead, or Failed
	Running   string           `json:"running"` // version of the release
	Release   string           `json:"release,omitempty"`
	Number    int64            `json:"role_version,omitempty"`
	Timestamp int64            `json:"timestamp_version,omitempty"`
	Bytes     int64            `json:"bytes"`             // from sources
	Preheat   bool             `json:"preheat,omitempty"` // signed settings ask for the release
	Offline   bool             `json:"offline,omitempty"` // no source has answered
	Error     string           `json:"error,omitempty"`
	Refused   []report.Refusal `json:"refused,omitempty"`
	Opens     *time.Time       `json:"window_opens,omitempty"` // for a release that waits
}

// status returns the result of a round.
func (w *Watcher) status(a bootclient.Ahead, refused []report.Refusal, err error) Status {
	s := Status{
		At: w.now().UTC(), State: a.State, Running: w.Running.Version, Release: a.Release.Version, Number: a.Release.Number,
		Timestamp: a.Timestamp, Bytes: a.Bytes, Preheat: a.Preheat, Offline: a.Offline, Refused: refused,
	}
	if err != nil {
		s.State, s.Error = Failed, report.Clean(err.Error())
	}
	if s.State == bootclient.Waiting {
		opens := w.Window.Next(w.now()).UTC()
		s.Opens = &opens
	}
	return s
}

// Line says a status in one line for a log.
func (s Status) Line() string {
	words := ""
	switch s.State {
	case bootclient.Current:
		words = fmt.Sprintf("release %s runs, and is the one for this machine", report.Printable(s.Running))
	case bootclient.Waiting:
		words = fmt.Sprintf("release %s is there; it is fetched in the maintenance window, from %s on", report.Printable(s.Release), s.Opens.Format("Mon 15:04 MST"))
	case bootclient.Fetched:
		words = fmt.Sprintf("release %s is fetched and verified; start it with phase-boot switch, or restart the machine", report.Printable(s.Release))
	default:
		words = s.Error
	}
	if s.Offline && s.State != Failed {
		words += "; no source has answered"
	}
	for _, r := range s.Refused {
		if strings.HasPrefix(r.Why, "older than ") { // another machine, or this one, still serves the running release
			continue
		}
		words += fmt.Sprintf("; refused: %s from %s: %s", r.What, r.Source, r.Why)
	}
	return words
}

// write writes the status and, if the round has a result, the notice for a restart, or removes it.
func (s Status) write(dir string, known bool) error {
	data, err := json.Marshal(s)
	if err != nil {
		return err
	}
	if err := atomicfile.Write(filepath.Join(dir, statusFile), 0o644, append(data, '\n')); err != nil {
		return err
	}
	switch {
	case !known:
		return nil
	case s.State == bootclient.Fetched:
		return require(dir, packagePrefix+s.Release)
	}
	return require(dir, "")
}

// ReadStatus returns the status of the last round, from the folder of notices.
func ReadStatus(dir string) (s Status, err error) {
	data, err := file.Read(filepath.Join(dir, statusFile), file.NoFollow, maxNotice)
	if err == nil {
		err = json.Unmarshal(data, &s)
	}
	if err != nil {
		return s, fmt.Errorf("status of phase-boot watch: %w", err)
	}
	return s, nil
}

// require makes line the only one of ours in reboot-required.pkgs, none if it is "". Lines of other programs stay. The
// list comes before the notice, and the notice goes with the last line.
func require(dir, line string) error {
	list := filepath.Join(dir, packagesFile)
	data, err := file.Read(list, file.NoFollow, maxNotice)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	had := string(data)
	lines := slices.DeleteFunc(strings.Split(had, "\n"), func(l string) bool { return l == "" || strings.HasPrefix(l, packagePrefix) })
	if line != "" {
		lines = append(lines, line)
	}
	if len(lines) == 0 {
		if had == "" {
			return nil // another program may have written a notice without a list
		}
		return errors.Join(removed(filepath.Join(dir, requiredFile)), removed(list))
	}
	text := strings.Join(lines, "\n") + "\n"
	if text != had {
		if err := atomicfile.Write(list, 0o644, []byte(text)); err != nil {
			return err
		}
	}
	if _, err := os.Lstat(filepath.Join(dir, requiredFile)); err == nil {
		return nil
	}
	return atomicfile.Write(filepath.Join(dir, requiredFile), 0o644, []byte(requiredText))
}

func removed(path string) error {
	if err := os.Remove(path); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}
