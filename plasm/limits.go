package plasm

import (
	"fmt"
	"io/fs"
	"time"
)

// page is the unit of WASM linear memory, in bytes.
const page = 64 << 10

// Maximum values of Limits, and the maximum size of a module.
const (
	maxMemory  = 4 << 30  // address space of a 32-bit linear memory
	maxOutput  = 64 << 20 // the output is not stored, but a console is slow
	maxTimeout = 24 * time.Hour
	maxModule  = 32 << 20
)

// Limits are the limits of a job.
type Limits struct {
	Memory  int64         // bytes of linear memory, a multiple of 64 KiB; in Process.Run its code counts too
	Timeout time.Duration // from the check of the module to its end, compilation included
	Output  int64         // bytes on stdout and stderr together
}

// DefaultLimits returns limits for an ordinary Go program of 5 MB, whose code counts too: 256 MiB, 30 s,
// 64 KiB. Nothing is reserved.
func DefaultLimits() Limits {
	return Limits{Memory: 256 << 20, Timeout: 30 * time.Second, Output: 64 << 10}
}

// Check returns an error for a limit outside the possible range.
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
