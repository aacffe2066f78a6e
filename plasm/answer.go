package plasm

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"syscall"
	"time"
)

// An answer is the answer of the process. It is not trusted: every field is limited and checked.
type answer struct {
	limit   uint64
	peak    uint64
	out     *output
	onBegin func(beginning) // called once, when the job is about to start
	begun   bool
	result  *result
	refusal string    // why the module is corrupt
	code    io.Writer // takes compiled code; nil to refuse it
	kept    bool      // the code is complete
	size    int64     // bytes of it
}

// read reads frames up to the last one or the end of the stream.
func (a *answer) read(r io.Reader) error {
	var buf bytes.Buffer
	for a.result == nil && a.refusal == "" && !a.kept {
		kind, err := readFrame(r, &buf)
		if err == io.EOF {
			return nil
		}
		if err == nil {
			err = a.take(kind, buf.Bytes())
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// take adds one frame to the answer.
func (a *answer) take(kind byte, payload []byte) error {
	switch kind {
	case frameStdout:
		_, err := a.out.stdout.Write(payload)
		return err
	case frameStderr:
		_, err := a.out.stderr.Write(payload)
		return err
	case framePeak:
		if len(payload) == 8 {
			a.peak = min(a.limit, max(a.peak, binary.BigEndian.Uint64(payload)))
		}
		return nil
	case frameCode:
		return a.keep(payload)
	case frameKept:
		a.kept = a.code != nil && a.size > 0
		if !a.kept {
			return fmt.Errorf("unknown frame %q", kind)
		}
		return nil
	case frameBegin:
		return a.begin(payload)
	case frameRefusal:
		a.refusal = string(escape([]byte(capText(string(payload)))))
		return nil
	case frameResult:
		return a.parse(payload)
	}
	return fmt.Errorf("unknown frame %q", kind)
}

// keep takes a part of the compiled code. No job has run in the process: one that was asked for its code
// runs none, and no other may send code.
func (a *answer) keep(payload []byte) error {
	a.size += int64(len(payload))
	if a.code == nil || a.begun || a.size > maxCode {
		return fmt.Errorf("unknown frame %q", frameCode)
	}
	_, err := a.code.Write(payload)
	return err
}

// begin reads a beginning.
func (a *answer) begin(payload []byte) error {
	var b beginning
	if err := json.Unmarshal(payload, &b); err != nil {
		return err
	}
	known := []string{IsolationNamespaces, IsolationSeccomp}
	b.Isolation = slices.DeleteFunc(known, func(name string) bool { return !slices.Contains(b.Isolation, name) })
	if a.begun {
		return errors.New("a job that began twice")
	}
	a.begun = true
	a.onBegin(b)
	return nil
}

// parse reads a result and checks its fields.
func (a *answer) parse(payload []byte) error {
	var r result
	if err := json.Unmarshal(payload, &r); err != nil {
		return err
	}
	if !KnownReason(r.Reason) || r.Reason == ReasonKilled || r.ExitCode < NoExitCode || r.ExitCode > 1<<32-1 ||
		r.Reason == ReasonExit && r.ExitCode == NoExitCode {
		return fmt.Errorf("result %.40q with exit code %d", r.Reason, r.ExitCode)
	}
	if r.Input != (Output{}) && (r.Input.Length < 0 || !isHex32(r.Input.SHA256)) {
		return fmt.Errorf("result with an input of %d bytes and sha256 %.70q", r.Input.Length, r.Input.SHA256)
	}
	r.Detail = string(escape([]byte(capText(r.Detail))))
	a.result = &r
	return nil
}

// outcome returns the outcome by the exit of the process. A limit that was enforced comes first, because
// it explains all later symptoms.
func (a *answer) outcome(exit processExit, lim Limits) Outcome {
	o := Outcome{MemoryPeak: int64(a.peak), CPU: exit.cpu(), ExitCode: NoExitCode}
	a.out.into(&o)
	switch {
	case errors.Is(exit.killed, errOutput):
		o.Reason, o.Detail = ReasonOutput, errOutput.Error()
	case a.result != nil:
		o.Reason, o.Detail, o.ExitCode = a.result.Reason, a.result.Detail, a.result.ExitCode
		o.Stdout.Truncated = o.Stdout.Truncated || a.result.StdoutCut
		o.Stderr.Truncated = o.Stderr.Truncated || a.result.StderrCut
		o.Output.Truncated = o.Stdout.Truncated || o.Stderr.Truncated
	case exit.outOfMemory:
		o.Reason, o.Detail = ReasonMemory, errGroupMemory.Error()
	case errors.Is(exit.killed, errTimeout) && !a.begun:
		o.Reason, o.Detail = ReasonTimeout, errTimeout.Error()+" before its code was ready, and its process was killed"
	case errors.Is(exit.killed, errTimeout):
		o.Reason, o.Detail = ReasonTimeout, errTimeout.Error()+", and its process was killed"
	case errors.Is(exit.killed, errCompile):
		o.Reason, o.Detail = ReasonCompile, errCompile.Error()
	case errors.Is(exit.killed, errCPU), exit.killed == nil && exit.bySignal() && lim.CPU > 0 && o.CPU >= lim.CPU:
		o.Reason, o.Detail = ReasonCPU, errCPU.Error()+", and its process was killed"
	case outOfMemory(exit.stderr) && (strings.Contains(exit.stderr, "growStack") || strings.Contains(exit.stderr, "runtime.newstack")):
		o.Reason, o.Detail = ReasonStack, errStack.Error()+", or needs more than the memory limit"
	case outOfMemory(exit.stderr):
		o.Reason, o.Detail = ReasonMemory, errEngineMemory.Error()
	default:
		o.Reason, o.Detail = ReasonKilled, "the process that ran it ended without a result: "+exit.String()
	}
	return o
}

// outOfMemory reports whether a Go program's stderr says that it got no memory for its heap or for the
// stack of a thread. It "cannot map pages" if the filter of system calls refuses one large growth of the heap.
func outOfMemory(stderr string) bool {
	return slices.ContainsFunc([]string{"out of memory", "ThreadSanitizer failed to allocate", "cannot allocate memory", "cannot map pages", "pthread_create failed", "failed to create new OS thread"},
		func(message string) bool { return strings.Contains(stderr, message) })
}

// A processExit is how a process ended.
type processExit struct {
	state  *syscall.WaitStatus // nil if it is unknown
	usage  syscall.Rusage
	text   string // for a person
	killed error  // why plasmd killed it, nil if it did not
	stderr string // the first maxStderr bytes

	outOfMemory bool // the kernel killed it at the memory limit of its control group
}

// cpu returns the processor time of the process.
func (e processExit) cpu() time.Duration {
	return time.Duration(e.usage.Utime.Nano() + e.usage.Stime.Nano())
}

// bySignal reports whether a signal ended the process.
func (e processExit) bySignal() bool { return e.state != nil && e.state.Signaled() }

// String describes the exit. It is safe to print on a terminal.
func (e processExit) String() string {
	parts := []string{e.text}
	if e.killed != nil {
		parts = append(parts, e.killed.Error())
	}
	if line, _, _ := strings.Cut(e.stderr, "\n"); line != "" {
		parts = append(parts, fmt.Sprintf("%.200q", line))
	}
	return strings.Join(parts, ": ")
}

// isHex32 reports whether s is 32 bytes in lower-case hex.
func isHex32(s string) bool {
	raw, err := hex.DecodeString(s)
	return err == nil && len(raw) == 32 && hex.EncodeToString(raw) == s
}
