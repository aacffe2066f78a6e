package plasm

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/phaseboot/phaseboot/cas"
)

// engine starts the process as plasmd does.
var engine = Process{Args: []string{"plasm-engine"}}

// TestMain runs the tests, or the role of a process that a test has started.
func TestMain(m *testing.M) {
	if role, ok := roles[os.Args[0]]; ok {
		role()
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// roles maps process names to what the process does: the engine, or a misbehaving process in its place.
var roles = map[string]func(){
	"plasm-engine": func() {
		if err := Serve(context.Background()); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	},
	"plasm-parent": func() {
		loop := hand{body: []byte{opLoop, typeVoid, opBr, 0, opEnd}}.bytes()
		_, _ = engine.Run(context.Background(), Job{Name: "loop", Module: loop}, Spec{Limits: tight}, marked(io.Discard))
	},
	"reports its limits": func() {
		mem := &meter{}
		if err := confine(request{Spec: Spec{Limits: tight}}, mem); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return
		}
		for _, file := range []string{"limits", "status", "environ"} {
			text, _ := os.ReadFile("/proc/self/" + file)
			_, _ = reply().stdout().Write(text)
		}
		fmt.Fprintf(reply().stdout(), "group %t\n", unix.Getpgrp() == os.Getpid())
		sendResult(result{Reason: ReasonExit})
	},
	"grows at once": func() {
		q := request{Spec: Spec{Limits: tight}}
		if err := errors.Join(confine(q, &meter{}), filter(false, q.growth())); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return
		}
		data := make([]byte, 64<<20*raceFactor)
		sendResult(result{Reason: ReasonExit, ExitCode: int64(data[len(data)-1])})
	},
	"exits at once": func() { os.Exit(7) },
	"is killed":     func() { _ = unix.Kill(os.Getpid(), unix.SIGKILL); select {} },
	"runs out":      func() { fmt.Fprintln(os.Stderr, "fatal error: runtime: out of memory"); os.Exit(2) },
	"starts no thread": func() {
		fmt.Fprintln(os.Stderr, "runtime/cgo: pthread_create failed: Resource temporarily unavailable")
		os.Exit(2)
	},
	"says nothing":      func() { reply().w.(*os.File).Close(); time.Sleep(time.Hour) },
	"floods stderr":     func() { io.Copy(os.Stderr, zeros{}) },
	"floods the answer": func() { io.Copy(reply().w, zeros{}) },
	"long frame":        func() { reply().w.Write([]byte{frameStdout, 0xff, 0xff, 0xff, 0xff}); select {} },
	"unknown frame":     func() { _ = reply().send('?', nil); time.Sleep(time.Hour) },
	"short frame":       func() { reply().w.Write([]byte{frameStdout, 0, 0, 0, 9, 'x'}) },
	"unknown reason":    func() { sendResult(result{Reason: "fun"}); time.Sleep(time.Hour) },
	"too much output":   func() { _, _ = io.CopyN(reply().stdout(), zeros{}, tight.Output+1); time.Sleep(time.Hour) },
	"too much memory":   func() { reply().peak(1 << 60); sendResult(result{Reason: ReasonExit}) },
	"colours":           func() { sendResult(result{Reason: ReasonTrap, ExitCode: NoExitCode, Detail: "\x1b[31mred"}) },
	"refuses in colour": func() { _ = reply().send(frameRefusal, []byte("\x1b[31mred")) },
}

// reply returns the writer of the answer.
func reply() *frames { return &frames{w: os.NewFile(fdAnswer, "answer")} }

// sendResult sends a result frame.
func sendResult(r result) {
	data, _ := json.Marshal(r)
	_ = reply().send(frameResult, data)
}

// marked returns the output of a job as on a shared console.
func marked(w io.Writer) IO {
	m := NewMarked(w)
	return IO{Stdout: m, Stderr: m}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

// TestAttacksAreStoppedInAProcess: the attacks end in a process as with runDirect, with both engines.
func TestAttacksAreStoppedInAProcess(t *testing.T) {
	for _, name := range []string{EngineInterpreter, EngineCompiler} {
		for _, tt := range attacks(t) {
			t.Run(name+"/"+tt.name, func(t *testing.T) {
				lim := tt.limits()
				if tt.reason != ReasonMemory {
					lim.Memory = 128 << 20 // the code of a Go program counts too
				}
				if name == EngineCompiler && tt.reason == ReasonTimeout {
					lim.Timeout *= 4 // for the compilation
				}
				o, err := engine.Run(t.Context(), Job{Name: tt.name, Module: tt.module}, Spec{Limits: lim, Engine: name}, marked(io.Discard))
				if err != nil {
					t.Fatal(err)
				}
				if o.Reason != tt.want(name) || o.OK() || o.MemoryPeak > lim.Memory || o.Engine != name {
					t.Errorf("ended by %s: %s, with %d bytes in the %s; want %s", o.Reason, o.Detail, o.MemoryPeak, o.Engine, tt.want(name))
				}
			})
		}
	}
}

func TestAProcessGivesTheSameOutputAsADirectRun(t *testing.T) {
	var direct, inProcess bytes.Buffer
	job := Job{Name: "hello.wasm", Module: built(t, "./jobs/hello")}
	want := mustRun(t, job.Name, job.Module, longLimits(), &direct)
	got, err := engine.Run(t.Context(), job, Spec{Limits: longLimits(), Engine: EngineInterpreter}, marked(&inProcess))
	if err != nil {
		t.Fatal(err)
	}
	if got.Output != want.Output || got.Reason != want.Reason || got.ExitCode != want.ExitCode || got.MemoryPeak != want.MemoryPeak {
		t.Errorf("in a process %+v, directly %+v", got, want)
	}
	if inProcess.String() != direct.String() || direct.Len() == 0 {
		t.Errorf("in a process %q, directly %q", &inProcess, &direct)
	}
}

func TestAProcessRefusesBytesThatAreNotACommand(t *testing.T) {
	_, err := engine.Run(t.Context(), Job{Name: "x", Module: []byte("#!/bin/sh\n")}, Spec{Limits: tight}, marked(io.Discard))
	if !errors.Is(err, cas.ErrCorrupt) || !strings.Contains(err.Error(), `job "x": not a WebAssembly 1.0 module`) {
		t.Errorf("got %v", err)
	}
}

// TestEveryEndOfTheProcessHasAnOutcome starts misbehaving processes in place of the engine. Each run ends
// with an outcome that can be signed and is within the limits.
func TestEveryEndOfTheProcessHasAnOutcome(t *testing.T) {
	tests := []struct{ role, reason, detail string }{
		{"exits at once", ReasonKilled, "exit status 7"},
		{"is killed", ReasonKilled, "signal: killed"},
		{"runs out", ReasonMemory, "memory limit"},
		{"grows at once", ReasonMemory, "memory limit"}, // RLIMIT_DATA lets it through
		{"starts no thread", ReasonMemory, "memory limit"},
		{"says nothing", ReasonTimeout, "killed"},
		{"floods stderr", ReasonTimeout, "killed"},
		{"floods the answer", ReasonKilled, "unknown frame"},
		{"long frame", ReasonKilled, "a frame of 4294967295 bytes"},
		{"unknown frame", ReasonKilled, "unknown frame"},
		{"short frame", ReasonKilled, "a frame is cut off"},
		{"unknown reason", ReasonKilled, `result "fun"`},
		{"too much output", ReasonOutput, "output limit"},
		{"too much memory", ReasonExit, ""},
		{"colours", ReasonTrap, `\x1b[31mred`},
		{"no such role", ReasonKilled, "exit status 2"},
	}
	for _, tt := range tests {
		t.Run(tt.role, func(t *testing.T) {
			t.Parallel()
			lim := tight
			if tt.reason == ReasonTimeout {
				lim.Timeout = time.Second / 2 // these processes would run for an hour
			}
			args := []string{tt.role}
			if roles[tt.role] == nil {
				args = append(args, "-no-such-flag") // of a test binary
			}
			job, err := NewJob(t.Context(), "x", hand{}.bytes())
			if err != nil {
				t.Fatal(err)
			}
			o, err := Process{Args: args}.Run(t.Context(), job, Spec{Limits: lim}, marked(io.Discard))
			if err != nil || o.Reason != tt.reason || !strings.Contains(o.Detail, tt.detail) {
				t.Fatalf("got %q: %s, %v; want %q: …%s…", o.Reason, o.Detail, err, tt.reason, tt.detail)
			}
			if o.MemoryPeak > lim.Memory || o.Output.Length > lim.Output {
				t.Errorf("above the limits: %+v", o)
			}
			if len(o.Stdout.SHA256) != 64 || len(o.Stderr.SHA256) != 64 || o.Engine == "" || o.Started.IsZero() {
				t.Errorf("not enough for a receipt: %+v", o)
			}
		})
	}
	_, err := Process{Args: []string{"refuses in colour"}}.Run(t.Context(), Job{Module: hand{}.bytes()}, Spec{Limits: tight}, marked(io.Discard))
	if !errors.Is(err, cas.ErrCorrupt) || strings.Contains(err.Error(), "\x1b") {
		t.Errorf("refusal: %q", err)
	}
}

// TestProcessIsConfined: the process reports its limits as the kernel has them.
func TestProcessIsConfined(t *testing.T) {
	t.Setenv("PHASE_TEST_SECRET", "secret value")
	var report bytes.Buffer
	lim := tight
	o, err := Process{Args: []string{"reports its limits"}}.Run(t.Context(), Job{Module: hand{}.bytes()}, Spec{Limits: lim}, marked(&report))
	if err != nil || !o.OK() {
		t.Fatalf("%+v, %v", o, err)
	}
	lines := strings.Join(strings.Fields(report.String()), " ") // replaces tabs
	for _, want := range []string{
		"Max core file size 0 0", "Max file size 0 0", "Max open files 16 16", "NoNewPrivs: 1", "group true",
	} {
		if !strings.Contains(lines, want) {
			t.Errorf("no %q in\n%s", want, &report)
		}
	}
	for _, not := range []string{"secret value", "Max data size unlimited", "Max cpu time unlimited"} {
		if strings.Contains(lines, not) {
			t.Errorf("%q in\n%s", not, &report)
		}
	}
}

func TestTheEndOfTheContextEndsAProcess(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	loop := hand{body: []byte{opLoop, typeVoid, opBr, 0, opEnd}}.bytes()
	o, err := engine.Run(ctx, Job{Name: "loop", Module: loop}, Spec{Limits: tight}, marked(io.Discard))
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v, want the error of the context", err)
	}
	if o.Engine == "" || o.CPU <= 0 || o.Compile <= 0 || o.Compile+o.Run < 100*time.Millisecond {
		t.Errorf("what was measured until then: %+v", o)
	}
}

// TestProcessDiesWithItsParent kills the parent of the engine and waits for the end of the engine.
func TestProcessDiesWithItsParent(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	parent := &exec.Cmd{Path: self, Args: []string{"plasm-parent"}}
	if err := parent.Start(); err != nil {
		t.Fatal(err)
	}
	defer parent.Process.Kill()
	pid := childOf(t, parent.Process.Pid)
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if err := parent.Process.Signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	_ = parent.Wait()
	for {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 60_000)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if n != 1 || err != nil {
			t.Fatalf("the engine outlives its parent: %d, %v", n, err)
		}
		return
	}
}

// childOf waits until a process has a child and returns the child's process ID.
func childOf(t *testing.T, pid int) int {
	t.Helper()
	for t.Context().Err() == nil {
		tasks, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
		for _, task := range tasks {
			text, _ := os.ReadFile(task)
			if child, err := strconv.Atoi(strings.TrimSpace(string(text))); err == nil {
				return child
			}
		}
		time.Sleep(time.Millisecond)
	}
	t.Fatal("no child")
	return 0
}
