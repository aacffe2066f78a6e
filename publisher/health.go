package publisher

import (
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/publisher/repo"
)

type kind int

const (
	refused     kind = iota // machines refuse something that is served
	atRisk                  // machines will refuse it unless the operator acts
	stale                   // the repository cannot be followed
	damaged                 // the store lacks blocks
	unreachable             // the object store does not answer
	expiring                // a file expires soon; logged only
)

// kindWords name the kinds in the metrics.
var kindWords = [...]string{refused: "refused", atRisk: "at_risk", stale: "stale", damaged: "damaged", unreachable: "unreachable", expiring: "expiring"}

// A problem is a fault of what a daemon serves.
type problem struct {
	kind kind
	err  error
}

// key identifies a problem. The text of a clock problem changes with the time.
func (p problem) key() string {
	if errors.Is(p.err, repo.ErrClock) {
		return "clock"
	}
	return p.err.Error()
}

// problems lists all problems. /healthz, /status and the metrics report this list, and the log one of a new check.
func (s *server) problems(ctx context.Context) []problem { return s.problemsAfter(ctx, s.lastCheck) }

// problemsAfter lists all problems after a check of the store.
func (s *server) problemsAfter(ctx context.Context, check func(context.Context) error) (found []problem) {
	add := func(k kind, err error) {
		next := problem{k, err}
		if err == nil || ctx.Err() != nil || slices.ContainsFunc(found, func(p problem) bool { return p.key() == next.key() }) {
			return
		}
		found = append(found, next)
	}
	v, err := s.verdict(ctx)
	add(refused, errors.Join(err, v.Err()))
	for _, f := range v.Files {
		if f.State == repo.StateEnding {
			add(expiring, errors.New(f.String()))
		}
	}
	if s.record().Age(s.Now()) >= repo.RecordLife {
		add(refused, s.recordProblem())
	}
	for _, err := range s.renewalProblems(ctx) {
		add(atRisk, err)
	}
	for _, last := range []*error{s.refreshErr.Load(), s.publishErr.Load()} {
		if last != nil {
			add(stale, *last)
		}
	}
	if err := check(ctx); errors.Is(err, cas.ErrUnreachable) {
		add(unreachable, err)
	} else {
		add(damaged, err)
	}
	return found
}

// recordProblem is why machines refuse the IPNS record, or find none.
func (s *server) recordProblem() error {
	if s.Replica && !s.record().Folder().Defined() {
		return errors.New("no IPNS record yet: run phase-publish serve with the keys, which signs it")
	}
	return errors.New("IPNS record expired")
}

// renewalProblems lists what keeps this daemon from renewing what it serves.
func (s *server) renewalProblems(ctx context.Context) (all []error) {
	if s.Replica { // another publisher renews
		return nil
	}
	r, err := repo.Open(ctx, s.repo.Dir)
	if err != nil {
		return []error{err}
	}
	all = r.Renewable(s.Online, s.record())
	if s.IgnoreClock {
		return all
	}
	if err := s.clock.CheckJump(s.Now(), s.Uptime()); err != nil {
		return append(all, err)
	}
	p, err := r.Published(ctx)
	if err == nil {
		err = r.CheckClock(p, s.Now())
	}
	return append(all, err)
}

// verdict says what machines do with the metadata that is served. It assumes that they know
// the repository's newest root, from a newer image or from another publisher.
func (s *server) verdict(ctx context.Context) (repo.Verdict, error) {
	r, err := repo.Open(ctx, s.repo.Dir)
	if err != nil {
		r = s.repo // renewalProblems reports the error
	}
	current, _ := s.source.current()
	return r.Verdict(ctx, current.Files, s.Now())
}

// unhealthy lists the problems for which /healthz is not 200.
func unhealthy(found []problem) (all []error) {
	for _, p := range found {
		if p.kind != expiring {
			all = append(all, p.err)
		}
	}
	return all
}

func (s *server) health(ctx context.Context) error {
	return errors.Join(unhealthy(s.problems(ctx))...)
}

// report logs each problem once, when it begins.
func (s *server) report(ctx context.Context) {
	before := s.logged
	s.logged = map[string]bool{}
	for _, p := range s.problemsAfter(ctx, s.checkStore) {
		s.logged[p.key()] = true
		if before[p.key()] {
			continue
		}
		cause := strings.ReplaceAll(p.err.Error(), "\n", "; ")
		switch p.kind {
		case damaged:
			s.faults.Error("store damaged", "cause", cause)
		case unreachable: // askStore logs an outage
			s.outages.Error("store not checked", "cause", cause)
		case refused:
			s.Log.Warn("release refused by machines", "cause", cause)
		case expiring:
			s.Log.Warn("metadata file expires soon", "cause", cause)
		case stale:
			s.Log.Error("pointer not moved", "cause", cause)
		default:
			s.Log.Warn("renewal at risk", "cause", cause)
		}
	}
}

// nextChange is the time until the verdict changes by itself.
func (s *server) nextChange(ctx context.Context) time.Duration {
	v, err := s.verdict(ctx)
	if next := v.NextChange(s.Now()); err == nil && !next.IsZero() {
		return max(next.Sub(s.Now()), settle)
	}
	return poll
}
