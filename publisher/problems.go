package publisher

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/phaseboot/phaseboot/manifest"
)

// A kind of problem.
type kind int

const (
	refusing  kind = iota // machines refuse something that is served
	endangers             // nothing is refused yet, and will be if nobody does something
	stuck                 // the repository cannot be followed
	unsound               // of the store
	ending                // a file ends soon; a word in the log, and no more
)

// A problem is something that is wrong with what a daemon serves.
type problem struct {
	kind kind
	err  error
}

// key tells problems apart. The words of a clock change with every look at it.
func (p problem) key() string {
	if errors.Is(p.err, errClock) {
		return "clock"
	}
	return p.err.Error()
}

// problems lists everything that is wrong. /healthz, /status, the metric and the log are views
// of this one list.
func (s *server) problems(ctx context.Context) (found []problem) {
	add := func(k kind, err error) {
		next := problem{k, err}
		if err == nil || ctx.Err() != nil || slices.ContainsFunc(found, func(p problem) bool { return p.key() == next.key() }) {
			return
		}
		found = append(found, next)
	}
	v, err := s.judge(ctx)
	add(refusing, errors.Join(err, v.Err()))
	for _, f := range v.Files {
		if f.State == StateEnding {
			add(ending, errors.New(f.String()))
		}
	}
	if s.records.age(s.Now()) >= recordLife {
		add(refusing, errors.New("IPNS record expired"))
	}
	for _, err := range s.repoProblems(ctx) {
		add(endangers, err)
	}
	add(stuck, s.noticed.last())
	add(unsound, s.sound(ctx))
	return found
}

// repoProblems is what keeps this daemon from renewing what it serves.
func (s *server) repoProblems(ctx context.Context) (all []error) {
	r, err := openRepo(ctx, s.repo.dir)
	if err != nil {
		return []error{err}
	}
	all = append(all, r.notKey(s.Online), r.notName(s.records.name), r.writable())
	if s.IgnoreClock {
		return all
	}
	if err := s.clock.jumped(s.Now(), s.Uptime()); err != nil {
		return append(all, err)
	}
	p, err := r.published(ctx)
	if err == nil && p != nil && !r.replaced(p) {
		err = checkClock(p, s.Now())
	}
	return append(all, err)
}

// judge says what machines do with the head that is served. They know the newest root of the
// repository: from a newer image, or from another publisher.
func (s *server) judge(ctx context.Context) (Verdict, error) {
	r, err := openRepo(ctx, s.repo.dir)
	if err != nil {
		r = s.repo // repoProblems says what is wrong with it
	}
	head, _ := s.heads.current()
	files, err := head.read(ctx)
	if err != nil {
		return Verdict{}, err
	}
	return r.verdict(ctx, files, s.Now())
}

// notName reports that the newest root does not list the IPNS name of this daemon.
func (r *repo) notName(name string) error {
	if slices.Contains(r.root.Discovery().IPNS, name) {
		return nil
	}
	return fmt.Errorf("root version %d does not list the IPNS name %s (%w): machines that know it look elsewhere; start phase-publish serve again with the new --ipns-key", r.root.Version(), name, manifest.ErrSignature)
}

// healthy joins what makes monitoring red.
func healthy(found []problem) error {
	var all error
	for _, p := range found {
		if p.kind != ending {
			all = errors.Join(all, p.err)
		}
	}
	return all
}

func words(found []problem) []string {
	out := []string{}
	for _, p := range found {
		if p.kind != ending {
			out = append(out, p.err.Error())
		}
	}
	return out
}

// noticed is what the log was told.
type noticed struct {
	mu      sync.Mutex
	told    map[string]bool
	trouble error // of the last look at the repository
}

// failed notes the outcome of a look at the repository.
func (n *noticed) failed(err error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.trouble = err
}

func (n *noticed) last() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.trouble
}

// news keeps those problems that were not there at the last call.
func (n *noticed) news(found []problem) []problem {
	n.mu.Lock()
	defer n.mu.Unlock()
	told := make(map[string]bool, len(found))
	fresh := slices.DeleteFunc(slices.Clone(found), func(p problem) bool {
		key := p.key()
		seen := told[key] || n.told[key]
		told[key] = true
		return seen
	})
	n.told = told
	return fresh
}

// notice logs each problem once, when it begins.
func (s *server) notice(ctx context.Context) {
	for _, p := range s.noticed.news(s.problems(ctx)) {
		cause := strings.ReplaceAll(p.err.Error(), "\n", "; ")
		switch p.kind {
		case unsound:
			s.faults.Error("the store is not whole", "cause", cause)
		case refusing:
			s.Log.Warn("machines refuse what is served", "cause", cause)
		case ending:
			s.Log.Warn("less than a quarter of its life is left", "file", cause)
		case stuck:
			s.Log.Error("head kept as it is", "cause", cause)
		default:
			s.Log.Warn("what is served will not stay good", "cause", cause)
		}
	}
}

// doubtClock logs a clock that contradicts what is published, before anything is signed
// with it. A publisher that was off for long looks the same, so it goes on: what is signed
// now moves no machine by more than an hour, and heals by itself.
func (s *server) doubtClock(ctx context.Context) {
	p, err := s.repo.published(ctx)
	if err != nil || p == nil || s.repo.replaced(p) {
		return
	}
	if err := checkClock(p, s.Now()); err != nil {
		s.Log.Warn("the clock is doubtful", "cause", err)
	}
}

// nextChange is the time until the verdict changes by itself.
func (s *server) nextChange(ctx context.Context) time.Duration {
	v, err := s.judge(ctx)
	if next := v.next(s.Now()); err == nil && !next.IsZero() {
		return max(next.Sub(s.Now()), settle)
	}
	return lookAgain
}
