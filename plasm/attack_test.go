package plasm

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/phaseboot/phaseboot/cas"
)

// tight has so much time that a job reaches its other limits first, even on a busy machine.
var tight = Limits{Memory: 16 << 20, Timeout: 10 * time.Minute, Output: 64 << 10}

// longLimits returns the default limits with a long timeout: the machine may be busy with other tests.
func longLimits() Limits {
	l := DefaultLimits()
	l.Timeout = tight.Timeout
	return l
}

// An attack is a hostile job and the expected end of its run.
type attack struct {
	name   string
	module []byte
	reason string
	detail string // part of it

	compiled string // reason with the compiler, if it differs
}

// want returns the expected reason with an engine.
func (a attack) want(engine string) string {
	if engine == EngineCompiler {
		return cmp.Or(a.compiled, a.reason)
	}
	return a.reason
}

func attacks(t *testing.T) []attack {
	greedy := built(t, "./testdata/greedy")
	return []attack{
		{"endless-loop", hand{body: []byte{opLoop, typeVoid, opBr, 0, opEnd}}.bytes(), ReasonTimeout, "time limit", ""},
		{"recursion-that-never-loops", tree(), ReasonTimeout, "time limit", ""},
		{"deep-recursion", hand{body: []byte{opCall, 0}}.bytes(), ReasonStack, "stack overflow", ""},
		{"deep-recursion-with-50000-locals", hand{body: []byte{opCall, 0}, locals: join([]byte{1}, uleb(50000), []byte{typeI64})}.bytes(), ReasonMemory, "need too much", ReasonStack},
		{"deep-recursion-with-a-wide-stack", wideStack(), ReasonMemory, "need too much", ReasonStack},
		{"memory-grow-to-the-end", growAll(), ReasonMemory, "more memory than its limit", ""},
		{"memory-of-4-GiB", hand{memory: join([]byte{0}, uleb(1<<16))}.bytes(), ReasonMemory, "4294967296 bytes of memory", ""},
		{"table-of-1-GiB", hand{table: join([]byte{0x70, 0}, uleb(1<<27))}.bytes(), ReasonTable, "a table of", ""},
		{"unknown-host-call", hand{source: "env", name: "system"}.bytes(), ReasonImport, `"system" of "env"`, ""},
		{"unknown-WASI-call", hand{source: "wasi_snapshot_preview1", name: "mount"}.bytes(), ReasonImport, `"mount"`, ""},
		{"table-of-another-module", imports(1, 0x70, 0, 1), ReasonImport, "not instantiated", ""},
		{"memory-of-another-module", imports(2, 0, 1), ReasonImport, "memory", ""},
		{"unreachable", hand{body: []byte{opUnreachable}}.bytes(), ReasonTrap, "unreachable", ""},

		{"loop", greedy, ReasonTimeout, "time limit", ""},
		{"sleep", greedy, ReasonTimeout, "time limit", ""},
		{"allocate", greedy, ReasonMemory, "more memory than its limit", ""},
		{"exit-3", greedy, ReasonExit, "exit code 3", ""},
	}
}

// limits returns limits with a short timeout for attacks on the timeout, which would run on at any
// timeout. A Go program is compiled for a good part of its second.
func (a attack) limits() Limits {
	lim := tight
	if a.reason == ReasonTimeout {
		lim.Timeout = 200 * time.Millisecond
		if len(a.module) > 1<<20 {
			lim.Timeout = time.Second
		}
	}
	return lim
}

// TestAttacksAreStopped runs hostile jobs. Each must end by the limit that it attacks, without using the
// machine's memory. The attacks that end by the time limit would never end without it.
func TestAttacksAreStopped(t *testing.T) {
	for _, tt := range attacks(t) {
		t.Run(tt.name, func(t *testing.T) {
			lim, before := tt.limits(), hostMemory()
			o := mustRun(t, tt.name, tt.module, lim, io.Discard)
			if o.Reason != tt.reason || !strings.Contains(o.Detail, tt.detail) || o.OK() {
				t.Errorf("ended by %s: %s; want %s: …%s…", o.Reason, o.Detail, tt.reason, tt.detail)
			}
			if o.MemoryPeak > tight.Memory {
				t.Errorf("memory peak %d over the limit of %d", o.MemoryPeak, tight.Memory)
			}
			if grown := int64(hostMemory()) - int64(before); grown > 600<<20 {
				t.Errorf("the process grew by %d MiB", grown>>20)
			}
		})
	}
}

// TestJobIsGrantedNothing runs jobs that exit with 0 if all their attempts are refused.
func TestJobIsGrantedNothing(t *testing.T) {
	t.Setenv("PHASE_TEST_SECRET", "secret value")
	for _, name := range []string{"files", "network", "environment", "clock"} {
		t.Run(name, func(t *testing.T) {
			var shown bytes.Buffer
			o := mustRun(t, name, built(t, "./testdata/greedy"), longLimits(), &shown)
			if !o.OK() || o.Output.Length == 0 {
				t.Errorf("ended by %s, exit code %d (9: it was granted something)\n%s", o.Reason, o.ExitCode, &shown)
			}
		})
	}
}

func TestOutputAboveTheLimitIsCut(t *testing.T) {
	var shown bytes.Buffer
	lim := tight
	lim.Output = 9
	o := mustRun(t, "files", built(t, "./testdata/greedy"), lim, &shown)
	if o.Reason != ReasonOutput || !o.Output.Truncated || o.Output.Length != lim.Output {
		t.Errorf("ended by %s with %+v; want %s after %d bytes", o.Reason, o.Output, ReasonOutput, lim.Output)
	}
	if got := shown.Len(); got != len(lineMark)+9+1 {
		t.Errorf("the console shows %d bytes: %q", got, &shown)
	}
}

func TestBytesThatAreNotACommandAreCorrupt(t *testing.T) {
	valid := hand{}.bytes()
	tests := []struct {
		name   string
		module []byte
	}{
		{"empty", nil},
		{"text", []byte("#!/bin/sh\n")},
		{"magic alone", valid[:4]},
		{"a component, not a module", []byte("\x00asm\x0d\x00\x01\x00")},
		{"cut in a section", valid[:len(valid)-3]},
		{"no _start", []byte("\x00asm\x01\x00\x00\x00")},
		{"a section beyond the end", append(bytes.Clone(valid), 11, 0xff, 0xff, 0xff, 0xff, 0x0f)},
		{"a memory section without a count", section([]byte("\x00asm\x01\x00\x00\x00"), 5, nil)},
		{"reference types", hand{body: []byte{0xd0, 0x70, opDrop}}.bytes()},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := runDirect(t.Context(), Job{Name: "x", Module: tt.module}, tight, io.Discard)
			if !errors.Is(err, cas.ErrCorrupt) {
				t.Errorf("got %v, want cas.ErrCorrupt", err)
			}
		})
	}
}

func TestTheEndOfTheContextEndsARun(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	loop := hand{body: []byte{opLoop, typeVoid, opBr, 0, opEnd}}.bytes()
	_, err := runDirect(ctx, Job{Name: "loop", Module: loop}, DefaultLimits(), io.Discard)
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v, want the error of the context", err)
	}
}

// runDirect runs a job in this process, as the engine's process does.
func runDirect(ctx context.Context, job Job, lim Limits, w io.Writer) (Outcome, error) {
	c := &console{w: w}
	defer c.close()
	return runHere(ctx, job, Spec{Limits: lim}, host{stdout: c, stderr: c, mem: &meter{limit: uint64(lim.Memory)}})
}

func mustRun(t *testing.T, name string, module []byte, lim Limits, w io.Writer) Outcome {
	t.Helper()
	o, err := runDirect(t.Context(), Job{Name: name, Module: module}, lim, w)
	if err != nil {
		t.Fatal(err)
	}
	return o
}

// growAll returns a command that grows its memory page by page until it is refused, then traps.
func growAll() []byte {
	return hand{body: []byte{
		opLoop, typeVoid, // again:
		opI32Const, 1, opMemoryGrow, 0, // grow by a page
		opI32Const, 0x7f, opI32Ne, opBrIf, 0, // not -1: again
		opEnd, opUnreachable,
	}}.bytes()
}

// wideStack returns a command that calls itself with 100,000 values on its operand stack: two thousand
// calls would need 1.6 GB.
func wideStack() []byte {
	return hand{body: join(
		bytes.Repeat([]byte{opI64Const, 0}, 100_000),
		[]byte{opCall, 0},
		bytes.Repeat([]byte{opDrop}, 100_000),
	)}.bytes()
}

// tree returns a command of 60 functions, each of which calls the next one twice: 2^60 calls without a
// loop.
func tree() []byte {
	const depth = 60
	m := []byte("\x00asm\x01\x00\x00\x00")
	m = section(m, 1, []byte{1, 0x60, 0, 0})
	m = section(m, 3, join(uleb(depth), make([]byte, depth)))
	m = section(m, 5, []byte{1, 0, 1})
	m = section(m, 7, join([]byte{2}, text("_start"), []byte{0, 0}, text("memory"), []byte{2, 0}))
	code := uleb(depth)
	for next := byte(1); next < depth; next++ {
		code = append(code, 6, 0, opCall, next, opCall, next, opEnd)
	}
	return section(m, 10, append(code, 2, 0, opEnd))
}

// imports returns a command with an import that is not a function. kind is its kind and type.
func imports(kind ...byte) []byte {
	m := []byte("\x00asm\x01\x00\x00\x00")
	m = section(m, 1, []byte{1, 0x60, 0, 0})
	m = section(m, 2, join([]byte{1}, text("env"), text("thing"), kind))
	m = section(m, 3, []byte{1, 0})
	m = section(m, 7, join([]byte{1}, text("_start"), []byte{0, 0}))
	return section(m, 10, []byte{1, 2, 0, opEnd})
}
