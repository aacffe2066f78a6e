package plasm

import (
	"context"
	"crypto/sha256"
	"io"
	"math/rand/v2"
	"time"

	"github.com/tetratelabs/wazero"
)

const (
	// fixedStart is where the clock of a job without Grants.Clock starts, in seconds since 1970:
	// 2022-01-01T00:00:00Z.
	fixedStart = 1640995200

	// fixedTick is how much that clock advances with each reading.
	fixedTick = time.Millisecond
)

// A clock is the clock of a job. Without the grant, it starts at a fixed time and advances with each
// reading, so that every run of a job reads the same times.
type clock struct {
	real     bool
	readings int64
}

// now returns the time in nanoseconds since 1970 without advancing a fixed clock.
func (c *clock) now() int64 {
	if c.real {
		return time.Now().UnixNano()
	}
	return fixedStart*int64(time.Second) + c.readings*int64(fixedTick)
}

// configure gives the clock to a job. A granted sleep ends with ctx; without the grant, a sleep returns
// at once.
func (c *clock) configure(ctx context.Context, config wazero.ModuleConfig) wazero.ModuleConfig {
	if c.real {
		return config.WithSysWalltime().WithSysNanotime().WithNanosleep(func(ns int64) {
			timer := time.NewTimer(time.Duration(ns))
			defer timer.Stop()
			select {
			case <-timer.C:
			case <-ctx.Done():
			}
		})
	}
	return config.
		WithWalltime(func() (int64, int32) {
			c.readings++
			now := c.now()
			return now / int64(time.Second), int32(now % int64(time.Second))
		}, 1).
		WithNanotime(func() int64 {
			c.readings++
			return c.readings * int64(fixedTick)
		}, 1)
}

// fixedRandom returns the random numbers of a job without Grants.Random: a sequence that depends on the
// module only. module is its SHA-256 in hex.
func fixedRandom(module string) io.Reader {
	return rand.NewChaCha8(sha256.Sum256([]byte("plasm random numbers\n" + module)))
}
