package main

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/phaseboot/phaseboot/plasm"
	"github.com/phaseboot/phaseboot/plasm/api"
	"github.com/phaseboot/phaseboot/plasm/wasmtest"
)

// A hostileJob is a job of plasm/jobs, and how it ends.
type hostileJob struct {
	name, reason string
	change       func(*plasm.Spec)
}

// hostileJobs use the default limits, but for what is named.
var hostileJobs = []hostileJob{
	{"hog", plasm.ReasonMemory, func(*plasm.Spec) {}},
	{"spin", plasm.ReasonTimeout, func(s *plasm.Spec) { s.Limits.Timeout = time.Second }},
	{"spin", plasm.ReasonCPU, func(s *plasm.Spec) { s.Limits.CPU = 500 * time.Millisecond }},
	{"flood", plasm.ReasonOutput, func(*plasm.Spec) {}},
	{"deep", plasm.ReasonStack, func(*plasm.Spec) {}},
	{"table", plasm.ReasonTable, func(*plasm.Spec) {}},
	{"imports", plasm.ReasonBounds, func(*plasm.Spec) {}},
	{"compilebomb", plasm.ReasonMemory, func(*plasm.Spec) {}},
	{"spin", plasm.ReasonTimeout, func(s *plasm.Spec) { s.Engine, s.Limits.Timeout = plasm.EngineCompiler, time.Second }},
	{"compilebomb", plasm.ReasonCompile, func(s *plasm.Spec) {
		s.Engine, s.Limits.Memory, s.Limits.Compile = plasm.EngineCompiler, 4<<30, 500*time.Millisecond
	}},
}

// TestHostileJobsInARowLeaveNothing submits hostile jobs to a daemon, two of which run at a time. At the end it has no
// process, no open file, no file but those of the jobs that it lists, and no more memory than after the first of
// them. Each kind runs twice; the variable PLASM_HOSTILE has another number of jobs, such as 1000. -v prints the figures.
func TestHostileJobsInARowLeaveNothing(t *testing.T) {
	jobs := hostileJobs
	if wasmtest.RaceDetector {
		jobs = jobs[:7]
	}
	number := 2 * len(jobs)
	if text := os.Getenv("PLASM_HOSTILE"); text != "" {
		n, err := strconv.Atoi(text)
		if err != nil || n < len(jobs) {
			t.Fatalf("PLASM_HOSTILE=%s: give a number of jobs, at least %d", text, len(jobs))
		}
		number = n
	}
	built := t.TempDir()
	if out, err := exec.Command("make", "-s", "-C", "../..", "BIN="+built, "jobs").CombinedOutput(); err != nil {
		t.Fatalf("make jobs: %v\n%s", err, out)
	}
	temporary := t.TempDir()
	t.Setenv("TMPDIR", temporary)
	dir := t.TempDir()
	s := serveIn(t, dir, "--workers", "2")
	ended, reasons := map[string]bool{}, map[string]int{}
	batch := func(from, to int) {
		t.Helper()
		var ids []string
		for i := from; i < to; i++ {
			h := jobs[i%len(jobs)]
			module, err := os.ReadFile(filepath.Join(built, "jobs", h.name+".wasm"))
			if err != nil {
				t.Fatal(err)
			}
			j, err := s.submitSpec(module, h.change)
			if err != nil {
				t.Fatalf("%s: %v\n%s", h.name, err, &s.log)
			}
			ids = append(ids, j.ID)
		}
		for i, id := range ids {
			h := jobs[(from+i)%len(jobs)]
			j := s.end(id)
			if j.State != api.StateDone || j.Reason != h.reason {
				t.Errorf("%s: %s by %q (%s), want %q", h.name, j.State, j.Reason, j.Detail, h.reason)
			}
			ended[id] = true
			reasons[j.Reason]++
		}
	}
	batch(0, len(jobs))
	first := processHolds(t, s.cmd.Process.Pid)
	for from := len(jobs); from < number; from += len(jobs) {
		batch(from, min(from+len(jobs), number))
		if t.Failed() {
			t.FailNow()
		}
	}
	last := processHolds(t, s.cmd.Process.Pid)
	for deadline := time.Now().Add(10 * time.Second); (last.children > 0 || last.files > first.files) && time.Now().Before(deadline); {
		time.Sleep(20 * time.Millisecond)
		last = processHolds(t, s.cmd.Process.Pid)
	}
	t.Logf("%d hostile jobs: %v\nafter %d: %+v\nat the end: %+v", len(ended), reasons, len(jobs), first, last)
	if last.children > 0 || last.files > first.files {
		t.Errorf("after the first jobs %+v, at the end %+v", first, last)
	}
	if last.memory > first.memory+first.memory/2+32<<20 {
		t.Errorf("%d bytes of memory after the first jobs, %d at the end", first.memory, last.memory)
	}
	s.ownsAllFiles(filepath.Join(dir, "state"))
	if left, err := os.ReadDir(temporary); err != nil || len(left) > 0 {
		t.Errorf("temporary files: %v, %v", left, err)
	}
}

// ownsAllFiles reports files of a store of jobs that belong to no job that the daemon lists.
func (s *served) ownsAllFiles(state string) {
	s.t.Helper()
	var list api.List
	if err := json.Unmarshal([]byte(s.get(api.Jobs)), &list); err != nil {
		s.t.Fatal(err)
	}
	jobs := map[string]bool{}
	for _, j := range list.Jobs {
		jobs[j.ID] = true
	}
	if blobs, err := os.ReadDir(filepath.Join(state, "blobs")); err != nil || len(blobs) > 0 { // of jobs that wait or run
		s.t.Errorf("modules and inputs of jobs that have ended: %v, %v", blobs, err)
	}
	outputs, err := os.ReadDir(filepath.Join(state, "output"))
	if err != nil {
		s.t.Fatal(err)
	}
	for _, f := range outputs {
		if !jobs[f.Name()] {
			s.t.Errorf("the output %s is of no job in the list", f.Name())
		}
	}
	var others []string
	for path := range maps.Keys(tree(s.t, state)) {
		if first, _, _ := strings.Cut(strings.TrimPrefix(path, "/"), "/"); !slices.Contains([]string{"", "blobs", "output", "code", "queue.db", "reserve", "lock"}, first) {
			others = append(others, path)
		}
	}
	if len(others) > 0 {
		s.t.Errorf("other files: %q", others)
	}
}

// holds is what a process holds.
type holds struct {
	files, children int
	memory          int64 // resident, bytes
}

// processHolds reads what the process with a PID holds.
func processHolds(t *testing.T, pid int) (h holds) {
	t.Helper()
	proc := fmt.Sprintf("/proc/%d", pid)
	files, err := os.ReadDir(proc + "/fd")
	if err != nil {
		t.Fatal(err)
	}
	h.files = len(files)
	tasks, err := filepath.Glob(proc + "/task/*/children")
	if err != nil {
		t.Fatal(err)
	}
	for _, task := range tasks {
		text, _ := os.ReadFile(task) // a thread may have ended
		h.children += len(strings.Fields(string(text)))
	}
	status, err := os.ReadFile(proc + "/status")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(status)) {
		if f := strings.Fields(line); len(f) == 3 && f[0] == "VmRSS:" {
			kib, err := strconv.ParseInt(f[1], 10, 64)
			if err != nil {
				t.Fatal(err)
			}
			h.memory = kib << 10
		}
	}
	return h
}
