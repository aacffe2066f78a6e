package imagebuild

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"github.com/phaseboot/phaseboot/internal/file"
)

// A Builder makes images. Several goroutines may use it, and several processes may share
// one cache.
type Builder struct {
	cache    string
	epoch    time.Time // zero: the newest date of the inputs
	progress progress
	foreign  *foreignLists
	pin      *pin  // nil: this machine's apt decides
	used     *used // nil: not collected
}

// Options configures a Builder.
type Options struct {
	// Cache is the folder for packages and base systems. Empty: DefaultCache.
	Cache string
	// Epoch is the date in every header. Zero: the newest date of the inputs.
	Epoch time.Time
	// Progress gets a line after 2 s of a step and then every 10 s. Nil: no lines.
	Progress io.Writer
}

// New makes the cache folder and removes temporary folders of builds that were killed.
func New(opts Options) (*Builder, error) {
	cache := opts.Cache
	if cache == "" {
		var err error
		if cache, err = DefaultCache(); err != nil {
			return nil, err
		}
	}
	cache, err := filepath.Abs(cache)
	if err != nil {
		return nil, err
	}
	b := &Builder{cache: cache, epoch: opts.Epoch, progress: progress{w: opts.Progress}, foreign: &foreignLists{}}
	if err := os.MkdirAll(b.cache, 0o755); err != nil {
		return nil, fmt.Errorf("cache: %w; set PHASE_BUILD_CACHE to a folder you can write", file.FullDisk(err))
	}
	if root, err := os.OpenRoot(b.cache); err == nil {
		file.RemoveStale(root, tempPrefix)
		root.Close()
	}
	return b, nil
}

// DefaultCache returns $PHASE_BUILD_CACHE, or the folder phaseboot in the user's cache
// folder.
func DefaultCache() (string, error) {
	if dir := os.Getenv("PHASE_BUILD_CACHE"); dir != "" {
		return dir, nil
	}
	dir, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("cache: %w; set PHASE_BUILD_CACHE", err)
	}
	return filepath.Join(dir, "phaseboot"), nil
}

// EnvEpoch reads SOURCE_DATE_EPOCH in Unix seconds (reproducible-builds.org). It returns
// the zero time when the variable is not set.
func EnvEpoch() (time.Time, error) {
	s := os.Getenv("SOURCE_DATE_EPOCH")
	if s == "" {
		return time.Time{}, nil
	}
	n, err := strconv.ParseUint(s, 10, 33)
	if err != nil {
		return time.Time{}, optionsf("SOURCE_DATE_EPOCH %.40q: not a number of seconds since 1970", s)
	}
	return time.Unix(int64(n), 0).UTC(), nil
}

// at returns a builder with the same cache and inputs whose epoch is t.
func (b *Builder) at(t time.Time) *Builder {
	again := &Builder{cache: b.cache, epoch: t.UTC(), foreign: b.foreign, pin: b.pin, used: b.used}
	again.progress.w = b.progress.w
	return again
}

// date returns the one date of an image: the builder's epoch, or the newest of the inputs.
func (b *Builder) date(inputs ...time.Time) time.Time {
	if !b.epoch.IsZero() {
		return b.epoch
	}
	return slices.MaxFunc(inputs, time.Time.Compare).UTC().Truncate(time.Second)
}

// tempDir makes a temporary folder inside the cache, so that a rename from it into the cache
// is atomic. The folder stays locked until the returned function removes it.
func (b *Builder) tempDir() (string, func(), error) {
	root, err := os.OpenRoot(b.cache)
	if err != nil {
		return "", nil, fmt.Errorf("cache: %w", err)
	}
	defer root.Close()
	name, lock, err := file.MkdirTemp(root, tempPrefix)
	if err != nil {
		return "", nil, fmt.Errorf("cache: %w", file.FullDisk(err))
	}
	dir := filepath.Join(b.cache, name)
	return dir, func() {
		os.RemoveAll(dir)
		lock.Close()
	}, nil
}

const tempPrefix = "tmp-"
