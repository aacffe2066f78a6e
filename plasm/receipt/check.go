package receipt

import (
	"errors"
	"fmt"
	"regexp"
	"time"
	"unicode/utf8"

	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/internal/refusal"
	"github.com/phaseboot/phaseboot/manifest"
	"github.com/phaseboot/phaseboot/plasm"
)

var (
	hex32 = regexp.MustCompile(`^[0-9a-f]{64}$`)
	// A newer machine may have more reasons.
	reasonGrammar = regexp.MustCompile(`^[a-z][a-z-]{0,31}$`)
	// word is a name without escapes in JSON.
	word = regexp.MustCompile(`^[ -~]{1,200}$`)
)

const (
	maxInteger  = 1 << 53
	maxExitCode = 1<<32 - 1
)

// check refuses values that no machine states. The error wraps manifest.ErrMalformed.
func (r Receipt) check() error {
	for _, f := range []struct{ what, is, want string }{
		{"statement", r.Type, StatementType},
		{"predicate", r.PredicateType, PredicateType},
	} {
		if f.is != f.want {
			return malformed("%s of type %.160q, want %s", f.what, f.is, f.want)
		}
	}
	if len(r.Subject) != 2 || r.Subject[0].Name != Stdout || r.Subject[1].Name != Stderr {
		return malformed("its subjects are not %s and %s", Stdout, Stderr)
	}
	for _, s := range r.Subject {
		if !hex32.MatchString(s.Digest.SHA256) {
			return malformed("%s: sha256 %.80q is not 64 lower-case hex digits", s.Name, s.Digest.SHA256)
		}
	}
	for _, check := range []func() error{r.Run.checkText, r.Run.checkModule, r.Run.checkRelease, r.checkNumbers, r.Run.checkEnd} {
		if err := check(); err != nil {
			return malformed("%v", err)
		}
	}
	return nil
}

func (r Run) checkText() error {
	for _, f := range []struct {
		what, is string
		optional bool
	}{
		{"id", r.ID, true},
		{"input", r.Input.SHA256, false},
		{"submitter", r.Submitter, true},
		{"boot_report_sha256", r.Report, true},
		{"machine", r.Machine.Key, false},
	} {
		if !(f.optional && f.is == "") && !hex32.MatchString(f.is) {
			return fmt.Errorf("%s %.80q: not 64 lower-case hex digits", f.what, f.is)
		}
	}
	if len(r.Name) > 1000 || !utf8.ValidString(r.Name) {
		return fmt.Errorf("name %.60q: more than 1000 bytes, or not UTF-8", r.Name)
	}
	if r.Engine != (Engine{}) && !(word.MatchString(r.Engine.Name) && word.MatchString(r.Engine.Version)) {
		return fmt.Errorf("engine %.60q %.60q: empty, or not plain ASCII", r.Engine.Name, r.Engine.Version)
	}
	for _, s := range r.Isolation {
		if !word.MatchString(s) {
			return fmt.Errorf("isolation %.60q: empty, or not plain ASCII", s)
		}
	}
	return nil
}

func (r Run) checkModule() error {
	m := r.Module
	if m.CID != "" {
		if c, err := cas.ParseCID(m.CID); err != nil {
			return err
		} else if c.String() != m.CID {
			return fmt.Errorf("module CID %.80q must be written %s", m.CID, c)
		}
	}
	if m.SHA256 != "" && !hex32.MatchString(m.SHA256) {
		return fmt.Errorf("module sha256 %.80q: not 64 lower-case hex digits", m.SHA256)
	}
	if r.ran() && (m.SHA256 == "" || m.Length < 1) {
		return errors.New("a job ran, and its module has no digest or no length")
	}
	return nil
}

// ran reports whether an engine got the module.
func (r Run) ran() bool { return r.Engine != (Engine{}) }

func (r Run) checkRelease() error {
	rel := r.Release
	if rel == nil {
		return nil
	}
	for _, s := range []string{rel.Channel, rel.Arch, rel.Version} {
		if !word.MatchString(s) {
			return fmt.Errorf("release, channel or arch %.60q: empty, or not plain ASCII", s)
		}
	}
	if rel.Repository != "" && !word.MatchString(rel.Repository) {
		return fmt.Errorf("repository %.60q: not plain ASCII", rel.Repository)
	}
	if rel.Number < 0 || rel.Root < 0 {
		return errors.New("a version of the release or of its root is negative")
	}
	return nil
}

func (r Receipt) checkNumbers() error {
	run := r.Run
	for _, n := range []int64{
		r.Subject[0].Annotations.Length, r.Subject[1].Annotations.Length, run.Module.Length, run.Input.Length,
		run.Durations.Wait, run.Durations.Fetch, run.Durations.Compile, run.Durations.Run, run.MemoryPeak, run.CPU,
	} {
		if n < 0 || n > maxInteger {
			return errors.New("a length or a duration is negative, or beyond 2^53")
		}
	}
	return nil
}

func (r Run) checkEnd() error {
	switch {
	case !reasonGrammar.MatchString(r.Reason):
		return fmt.Errorf("reason %.60q: not a word of lower-case letters", r.Reason)
	case r.ExitCode < plasm.NoExitCode || r.ExitCode > maxExitCode:
		return fmt.Errorf("exit code %d: not between 0 and 2^32-1", r.ExitCode)
	case r.Reason == plasm.ReasonExit && (r.ExitCode == plasm.NoExitCode || !r.ran()):
		return errors.New("reason exit without an exit code or an engine")
	case r.ran() && r.Started.IsZero():
		return errors.New("a job ran, and has no date")
	case !r.Started.IsZero() && (r.Started.Location() != time.UTC || r.Started.Nanosecond() != 0 || r.Started.Year() > 9999):
		return fmt.Errorf("started %s: not a UTC date of whole seconds", r.Started.Format(time.RFC3339Nano))
	}
	return nil
}

func malformed(format string, args ...any) error {
	return refusal.New(manifest.ErrMalformed, "receipt: %s", fmt.Sprintf(format, args...))
}

func untrusted(reason error, format string, args ...any) error {
	return refusal.New(reason, "receipt: %s", fmt.Sprintf(format, args...))
}
