package plasm

import (
	"bytes"
	"encoding/json"
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

// Limits are the limits of a job. Its JSON has integers only: durations are in milliseconds.
type Limits struct {
	Memory  int64         // bytes of linear memory, a multiple of 64 KiB; in Process.Run its code counts too
	Timeout time.Duration // from the check of the module to its end, compilation included; whole milliseconds
	Output  int64         // bytes on stdout and stderr together
	CPU     time.Duration // processor time of the job's process; 0 for no limit below that of Timeout; whole milliseconds
	Compile time.Duration // from the start to the first instruction of the job; 0 for no limit below Timeout; whole milliseconds
	Module  int64         // bytes of the module; 0 for 32 MiB
}

// jsonLimits is the JSON of Limits.
type jsonLimits struct {
	Memory  int64 `json:"memory_bytes"`
	Timeout int64 `json:"timeout_ms"`
	Output  int64 `json:"output_bytes"`
	CPU     int64 `json:"cpu_ms,omitempty"`
	Compile int64 `json:"compile_ms,omitempty"`
	Module  int64 `json:"module_bytes,omitempty"`
}

// MarshalJSON implements json.Marshaler.
func (l Limits) MarshalJSON() ([]byte, error) {
	return json.Marshal(jsonLimits{l.Memory, l.Timeout.Milliseconds(), l.Output, l.CPU.Milliseconds(), l.Compile.Milliseconds(), l.Module})
}

// UnmarshalJSON implements json.Unmarshaler. It refuses unknown fields.
func (l *Limits) UnmarshalJSON(data []byte) error {
	var j jsonLimits
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if err := d.Decode(&j); err != nil {
		return err
	}
	for _, ms := range []int64{j.Timeout, j.CPU, j.Compile} {
		if ms < 0 || ms > 2*maxTimeout.Milliseconds() {
			return fmt.Errorf("time limit: %w: %d ms; give 1 to %d", fs.ErrInvalid, ms, maxTimeout.Milliseconds())
		}
	}
	*l = Limits{
		Memory: j.Memory, Timeout: milliseconds(j.Timeout), Output: j.Output,
		CPU: milliseconds(j.CPU), Compile: milliseconds(j.Compile), Module: j.Module,
	}
	return nil
}

func milliseconds(n int64) time.Duration { return time.Duration(n) * time.Millisecond }

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
	case l.Timeout < time.Millisecond || l.Timeout > maxTimeout || l.Timeout%time.Millisecond != 0:
		return fmt.Errorf("time limit: %w: %s; give whole milliseconds from 1ms to 24h", fs.ErrInvalid, l.Timeout)
	case l.CPU < 0 || l.CPU > 2*maxTimeout || l.CPU%time.Millisecond != 0:
		return fmt.Errorf("processor time limit: %w: %s; give whole milliseconds from 1ms to 48h", fs.ErrInvalid, l.CPU)
	case l.Compile < 0 || l.Compile > maxTimeout || l.Compile%time.Millisecond != 0:
		return fmt.Errorf("limit of the preparation: %w: %s; give whole milliseconds from 1ms to 24h", fs.ErrInvalid, l.Compile)
	case l.Module < 0 || l.Module > maxModule:
		return fmt.Errorf("module limit: %w: %d bytes; give up to 32M", fs.ErrInvalid, l.Module)
	case l.Output < 0 || l.Output > maxOutput:
		return fmt.Errorf("output limit: %w: %d bytes; give 0 to 64M", fs.ErrInvalid, l.Output)
	}
	return nil
}
