package machine

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"time"

	"github.com/phaseboot/phaseboot/bootclient"
	"github.com/phaseboot/phaseboot/bootclient/report"
	"github.com/phaseboot/phaseboot/bootclient/watch"
	"github.com/phaseboot/phaseboot/internal/bootargs"
	"github.com/phaseboot/phaseboot/internal/window"
)

// NextOptions say where a running target has its files.
type NextOptions struct {
	Dir   string // the hand-over, "" for /run/phase
	Cache string // a folder with the cache, "" for the cache partition
}

func (o NextOptions) dir() string {
	if o.Dir == "" {
		return runDir
	}
	return o.Dir
}

// NewWatcher returns the Watcher of a running target, without its times and its limits. leave ends the use of the cache
// partition. The error wraps fs.ErrInvalid if the boot mode forbids it.
func NewWatcher(ctx context.Context, o NextOptions) (w *watch.Watcher, leave func() error, err error) {
	r, err := readRunning(o.dir(), "watch")
	if err != nil {
		return nil, nil, err
	}
	cache, leave, err := openCache(ctx, o.Cache)
	if err != nil {
		return nil, nil, fmt.Errorf("watch: %w", err)
	}
	config := func() (bootclient.Config, error) {
		if isReadOnly(cache) {
			return bootclient.Config{}, fmt.Errorf("cache %s: %w: it is mounted read-only; restart phase-watch.service", cache, fs.ErrPermission)
		}
		r.useCache(cache)
		c := r.config
		c.Report = report.New(time.Now(), nil)
		return c, nil
	}
	return &watch.Watcher{Config: config, Running: r.release, Wants: wants}, leave, nil
}

// WatchWord returns what phase.watch= of the running kernel says. given is false without it; it is an error if it is not a
// window, on or off.
func WatchWord() (on, given bool, w window.Window, err error) {
	line, err := os.ReadFile("/proc/cmdline")
	if err != nil {
		return false, false, w, err
	}
	return watchWord(string(line))
}

func watchWord(line string) (on, given bool, w window.Window, err error) {
	args := bootargs.Parse(line)
	if args.Watch == "" {
		return false, false, w, nil
	}
	on, w, err = bootargs.CheckWatch(args.Watch)
	return on, true, w, err
}
