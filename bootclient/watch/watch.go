package watch

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/phaseboot/phaseboot/bootclient"
	"github.com/phaseboot/phaseboot/bootclient/report"
	"github.com/phaseboot/phaseboot/bootclient/timing"
	"github.com/phaseboot/phaseboot/internal/window"
	"github.com/phaseboot/phaseboot/manifest"
)

const (
	// Every is the usual time between two rounds.
	Every = time.Hour
	// MinEvery is the shortest: a round asks each source once.
	MinEvery = 5 * time.Second
	// spread is how much earlier or later than planned a round may begin, as a part of Every: a fleet does not ask at once.
	spread = 4
	// maxSpread is the most that a round begins after the opening of a window.
	maxSpread = 5 * time.Minute
)

// A Watcher looks for the next release of a running machine.
type Watcher struct {
	// Config returns the configuration of a round, as the boot had it, with the cache for writing.
	Config func() (bootclient.Config, error)
	// Running is the release that this machine runs.
	Running manifest.Release
	// Wants reports whether this machine uses an artifact; nil for each.
	Wants  func(r manifest.Release, role string) bool
	Window window.Window
	Every  time.Duration // between two rounds
	Rate   int64         // bytes per second on average, 0 for no limit
	Notice string        // folder of reboot-required and of the status, "" for none
	Say    func(line string)
	// Done, if not nil, is called after each round.
	Done func(Status)

	now  func() time.Time // nil: time.Now
	said string           // the last line
	seen bootclient.Seen
}

// Run does a round each Every, until ctx ends; then it returns nil. A round that fails is repeated after growing pauses.
func (w *Watcher) Run(ctx context.Context) error {
	w.defaults()
	pause, failed := rand.N(min(w.Every/spread, maxSpread)), 0
	for {
		if !sleep(ctx, pause) {
			return nil
		}
		status, err := w.round(ctx)
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil:
			pause = jitter(timing.Growing(min(timing.WatchFirst, w.Every), failed, w.Every))
			failed++
		default:
			pause, failed = w.pause(status), 0
		}
	}
}

// Once does one round.
func (w *Watcher) Once(ctx context.Context) (Status, error) {
	w.defaults()
	return w.round(ctx)
}

func (w *Watcher) defaults() {
	w.Every = cmp.Or(w.Every, Every)
	if w.now == nil {
		w.now = time.Now
	}
	if w.Say == nil {
		w.Say = func(string) {}
	}
	if w.Done == nil {
		w.Done = func(Status) {}
	}
}

// sleep reports false if ctx ends first.
func sleep(ctx context.Context, d time.Duration) bool {
	select {
	case <-time.After(d):
		return true
	case <-ctx.Done():
		return false
	}
}

// jitter returns a time around d.
func jitter(d time.Duration) time.Duration { return d - d/spread + rand.N(max(d/spread*2, 1)) }

// pause returns the time to the next round: not later than when the window opens for a release that waits.
func (w *Watcher) pause(s Status) time.Duration {
	pause, now := jitter(w.Every), w.now()
	if opens := w.Window.Next(now).Sub(now); s.State == bootclient.Waiting && opens > 0 && opens < pause {
		late := rand.N(min(w.Every/spread, maxSpread))
		for late > 0 && !w.Window.Open(now.Add(opens+late)) { // a short window
			late /= 2
		}
		return opens + late
	}
	return pause
}

// round looks once, fetches if it may, and says and writes what it knows.
func (w *Watcher) round(ctx context.Context) (Status, error) {
	ahead, refused, err := w.look(ctx)
	if ctx.Err() != nil {
		return Status{}, ctx.Err()
	}
	s := w.status(ahead, refused, err)
	if line := s.Line(); line != w.said {
		w.said = line
		w.Say(line)
	}
	if w.Notice != "" {
		if noticeErr := s.write(w.Notice, err == nil); noticeErr != nil {
			noticeErr = fmt.Errorf("the notice: %w", noticeErr)
			w.Say(noticeErr.Error())
			err = errors.Join(err, noticeErr)
		}
	}
	w.Done(s)
	return s, err
}

// look finds the next release and fetches it if it may.
func (w *Watcher) look(ctx context.Context) (bootclient.Ahead, []report.Refusal, error) {
	cfg, err := w.Config()
	if err != nil {
		return bootclient.Ahead{}, nil, err
	}
	if cfg.Report == nil {
		cfg.Report = report.New(w.now(), nil)
	}
	ahead, err := bootclient.FetchAhead(ctx, cfg, bootclient.AheadOptions{
		Running: w.Running, Rate: w.Rate, Wants: w.Wants, Seen: &w.seen,
		MayFetch: func(manifest.Release) bool { return w.Window.Open(w.now()) },
	})
	return ahead, cfg.Report.Refused(), err
}
