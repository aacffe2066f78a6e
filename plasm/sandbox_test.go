package plasm

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/phaseboot/phaseboot/cas"
)

// TestProcessIsIsolated: root has all of it, and the job runs with both engines.
func TestProcessIsIsolated(t *testing.T) {
	for _, name := range []string{EngineInterpreter, EngineCompiler} {
		job := Job{Name: "hello.wasm", Module: built(t, "./jobs/hello")}
		o, err := engine.Run(t.Context(), job, Spec{Limits: longLimits(), Engine: name}, marked(io.Discard))
		if err != nil || !o.OK() {
			t.Fatalf("%s: %+v, %v", name, o, err)
		}
		for _, want := range []string{IsolationNamespaces, IsolationSeccomp} {
			if !slices.Contains(o.Isolation, want) {
				t.Errorf("%s: isolation %v, want %s", name, o.Isolation, want)
			}
		}
	}
}

func init() { roles["tries the host"] = triesTheHost }

// triesTheHost is a process that is confined and then tries what code could that has broken out of the
// engine.
func triesTheHost() {
	pipe := os.NewFile(fdRequest, "request")
	q, _, code, err := receive(pipe)
	box := &sandbox{request: pipe}
	out := reply()
	if err := errors.Join(err, box.enter(q, code, &meter{}), box.seal()); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	parent := os.Getppid()
	for _, try := range []struct {
		name string
		do   func() error
	}{
		{"open a file", func() error { _, err := os.Open("/etc/passwd"); return err }},
		{"read the folder", func() error { _, err := os.ReadDir("/"); return err }},
		{"make a file", func() error { return os.WriteFile("/x", nil, 0o600) }},
		{"read the folder of code", func() error { _, err := os.ReadDir(codeDir); return err }},
		{"make a file in the folder of code", func() error { return os.WriteFile(codeDir+"/x", nil, 0o600) }},
		{"open a socket", func() error { _, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM, 0); return err }},
		{"open a unix socket", func() error { _, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM, 0); return err }},
		{"kill the parent", func() error { return unix.Kill(parent, 0) }},
		{"start a program", func() error { _, err := os.StartProcess("/bin/true", []string{"true"}, &os.ProcAttr{}); return err }},
		{"trace", func() error { return unix.PtraceAttach(parent) }},
		{"mount", func() error { return unix.Mount("x", "/", "tmpfs", 0, "") }},
		{"make memory executable", func() error {
			_, err := unix.Mmap(-1, 0, 4096, unix.PROT_READ|unix.PROT_EXEC, unix.MAP_PRIVATE|unix.MAP_ANON)
			return err
		}},
		{"raise a limit", func() error {
			return unix.Setrlimit(unix.RLIMIT_DATA, &unix.Rlimit{Cur: unix.RLIM_INFINITY, Max: unix.RLIM_INFINITY})
		}},
		{"new user namespace", func() error { return unix.Unshare(unix.CLONE_NEWUSER) }},
	} {
		if err := try.do(); err == nil {
			fmt.Fprintf(out.stdout(), "%s: done\n", try.name)
		}
	}
	_ = out.sendJSON(frameBegin, beginning{box.reached})
	sendResult(result{Reason: ReasonExit})
}

// TestProcessCannotReachTheHost: nothing that code outside of the engine tries is allowed.
func TestProcessCannotReachTheHost(t *testing.T) {
	for _, name := range []string{EngineInterpreter, EngineCompiler} {
		var done strings.Builder
		o, err := Process{Args: []string{"tries the host"}}.Run(t.Context(), Job{Module: hand{}.bytes()}, Spec{Limits: longLimits(), Engine: name}, IO{Stdout: &done})
		if err != nil || !o.OK() || !slices.Contains(o.Isolation, IsolationSeccomp) {
			t.Fatalf("%+v, %v", o, err)
		}
		if done.Len() > 0 {
			t.Errorf("%s: the process could:\n%s", name, &done)
		}
	}
}

// TestRunsLeaveNothing: after 100 jobs in a row, among them hostile ones and one that is killed from
// outside, no process, file descriptor or thread is left.
func TestRunsLeaveNothing(t *testing.T) {
	loop := hand{body: []byte{opLoop, typeVoid, opBr, 0, opEnd}}.bytes()
	jobs := [][]byte{hand{}.bytes(), hand{body: []byte{opUnreachable}}.bytes(), growAll(), hand{body: []byte{opCall, 0}}.bytes(), loop}
	lim := tight
	lim.Timeout = 100 * time.Millisecond
	run := func(i int) {
		spec := Spec{Limits: lim, Grants: Grants{Stdin: true, Scratch: 1 << 20}, Engine: EngineInterpreter}
		if i%2 == 1 {
			spec.Engine = EngineCompiler
		}
		if _, err := engine.Run(t.Context(), Job{Name: "x", Module: jobs[i%len(jobs)]}, spec, IO{Stdin: strings.NewReader("input")}); err != nil {
			t.Fatal(err)
		}
	}
	for i := range 2 * len(jobs) { // the first runs open what this process keeps
		run(i)
	}
	before := open(t)
	for i := range 100 {
		run(i)
	}
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		after := open(t)
		if after.files <= before.files && after.children == 0 && after.threads <= before.threads+8 {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("before %+v, after %+v", before, after)
		}
	}
}

// held is what a process holds.
type held struct{ files, children, threads int }

func open(t *testing.T) held {
	t.Helper()
	files, err := os.ReadDir("/proc/self/fd")
	tasks, err2 := filepath.Glob("/proc/self/task/*/children")
	if err := errors.Join(err, err2); err != nil {
		t.Fatal(err)
	}
	h := held{files: len(files), threads: len(tasks)}
	for _, task := range tasks {
		text, _ := os.ReadFile(task)
		h.children += len(strings.Fields(string(text)))
	}
	return h
}

// TestAChildKilledFromOutsideIsAnOutcome kills the process of a job as an operator would.
func TestAChildKilledFromOutsideIsAnOutcome(t *testing.T) {
	loop := hand{body: []byte{opLoop, typeVoid, opBr, 0, opEnd}}.bytes()
	for _, name := range []string{EngineInterpreter, EngineCompiler} {
		go func() {
			pid := childOf(t, os.Getpid())
			time.Sleep(100 * time.Millisecond)
			_ = unix.Kill(pid, unix.SIGKILL)
		}()
		o, err := engine.Run(t.Context(), Job{Name: "loop", Module: loop}, Spec{Limits: tight, Engine: name}, IO{})
		if err != nil || o.Reason != ReasonKilled || !strings.Contains(o.Detail, "signal: killed") {
			t.Errorf("%s: %+v, %v", name, o, err)
		}
	}
}

// TestLimitsOfTimeHaveTheirReasons: processor time, preparation, and the size of the module.
func TestLimitsOfTimeHaveTheirReasons(t *testing.T) {
	loop := hand{body: []byte{opLoop, typeVoid, opBr, 0, opEnd}}.bytes()
	hello := built(t, "./jobs/hello")
	for _, name := range []string{EngineInterpreter, EngineCompiler} {
		for _, tt := range []struct {
			reason string
			module []byte
			edit   func(*Limits)
		}{
			{ReasonCPU, loop, func(l *Limits) { l.CPU = 100 * time.Millisecond }},
			{ReasonCompile, hello, func(l *Limits) { l.Compile = time.Millisecond }},
			{ReasonModule, hello, func(l *Limits) { l.Module = 1 << 20 }},
			{ReasonTimeout, loop, func(l *Limits) { l.Timeout = 300 * time.Millisecond }},
		} {
			lim := tight
			tt.edit(&lim)
			o, err := engine.Run(t.Context(), Job{Name: "x", Module: tt.module}, Spec{Limits: lim, Engine: name}, IO{})
			if err != nil || o.Reason != tt.reason {
				t.Errorf("%s: %+v, %v; want %s", name, o, err, tt.reason)
			}
			if tt.reason == ReasonCPU && (o.CPU < lim.CPU || o.CPU > lim.CPU+2*time.Second) {
				t.Errorf("%s: %s of processor time, the limit is %s", name, o.CPU, lim.CPU)
			}
		}
	}
}

func TestAModuleOf200MBIsCorrupt(t *testing.T) {
	_, err := engine.Run(t.Context(), Job{Name: "huge.wasm", Module: make([]byte, 200<<20)}, Spec{Limits: tight}, IO{})
	if !errors.Is(err, cas.ErrCorrupt) || strings.Contains(err.Error(), "\n") {
		t.Errorf("got %v", err)
	}
}
