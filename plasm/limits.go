package plasm

import (
	"fmt"
	"io/fs"
	"time"
)

// page is the unit of WASM linear memory, in bytes.
const page = 64 << 10

// Bounds of what Limits may say and of what is read.
const (
	maxMemory  = 4 << 30  // what a 32-bit linear memory can address
	maxOutput  = 64 << 20 // the output is not kept, but the console is slow
	maxTimeout = 24 * time.Hour
	maxModule  = 32 << 20
)

// Limits is what a job may use.
type Limits struct {
	Memory  int64         // bytes of linear memory, a multiple of 64 KiB; see Process for what else counts
	Timeout time.Duration // from the first look at the module to its end, compilation included
	Output  int64         // bytes on stdout and stderr together
}

// DefaultLimits suits an ordinary Go program of 5 MB, whose code counts too: 256 MiB, 30 s,
// 64 KiB. They are bounds and reserve nothing.
func DefaultLimits() Limits {
	return Limits{Memory: 256 << 20, Timeout: 30 * time.Second, Output: 64 << 10}
}

// Check reports a limit outside what can be kept.
func (l Limits) Check() error {
	switch {
	case l.Memory < page || l.Memory > maxMemory || l.Memory%page != 0:
		return fmt.Errorf("memory limit: %w: %d bytes; give a multiple of 64K up to 4G", fs.ErrInvalid, l.Memory)
	case l.Timeout < time.Millisecond || l.Timeout > maxTimeout:
		return fmt.Errorf("time limit: %w: %s; give 1ms to 24h", fs.ErrInvalid, l.Timeout)
	case l.Output < 0 || l.Output > maxOutput:
		return fmt.Errorf("output limit: %w: %d bytes; give 0 to 64M", fs.ErrInvalid, l.Output)
	}
	return nil
}
