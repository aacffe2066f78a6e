package main

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"text/tabwriter"
	"time"

	"github.com/phaseboot/phaseboot/plasm"
	"github.com/phaseboot/phaseboot/plasm/receipt"
	"github.com/phaseboot/phaseboot/plasm/wasmtest"
)

const (
	timeLimit = time.Second
	allowance = 64 << 20 // memory of both processes of plasmd in addition to the job's
)

// TestBombsAreBounded runs modules that use much memory before their first instruction, and long
// sequences of instructions that the engine does not interrupt, with plasmd as make builds it. Each run
// gets a receipt; all processes together use at most the memory limit + 64 MiB. -v prints a table of the
// figures.
func TestBombsAreBounded(t *testing.T) {
	plasmd := build(t, ".", "CGO_ENABLED=0")
	t.Setenv("XDG_CACHE_HOME", t.TempDir())
	limits := []int64{64 << 20, plasm.DefaultLimits().Memory}
	if testing.Short() {
		limits = limits[:1]
	}
	for _, limit := range limits {
		boundBombs(t, plasmd, limit, plasm.EngineInterpreter)
		boundBombs(t, plasmd, limit, plasm.EngineCompiler)
	}
}

// TestAnOrdinaryGoProgramRunsUnderTheDefaults runs a job of 5 MB, with plasmd as make builds it. The code
// of a job counts against its memory limit.
func TestAnOrdinaryGoProgramRunsUnderTheDefaults(t *testing.T) {
	plasmd := build(t, ".", "CGO_ENABLED=0")
	t.Setenv("XDG_CACHE_HOME", t.TempDir())
	job := build(t, "../../plasm/testdata/ordinary", "CGO_ENABLED=0", "GOOS=wasip1", "GOARCH=wasm")
	output, err := exec.Command(plasmd, "run", "--marked", job).CombinedOutput()
	if err != nil || !strings.Contains(string(output), "job: hello, ordinary job\n") {
		t.Errorf("%v\n%s", err, output)
	}
}

// build builds a program of this module, as make does, and returns its path.
func build(t *testing.T, pkg string, env ...string) string {
	t.Helper()
	to := filepath.Join(t.TempDir(), "program")
	cmd := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-ldflags", "-s -w", "-o", to, pkg)
	cmd.Env = append(os.Environ(), env...)
	if output, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", cmd, err, output)
	}
	return to
}

// boundBombs runs every bomb under a memory limit in bytes with an engine.
func boundBombs(t *testing.T, plasmd string, limit int64, engine string) {
	t.Helper()
	var table bytes.Buffer
	rows := tabwriter.NewWriter(&table, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(rows, "module bytes\tended by\ttime, s\tmemory, MiB\t of it the engine\t")
	for i, bomb := range wasmtest.Bombs() {
		if testing.Short() && i%3 != 2 { // a sample, with one of memory.copy
			continue
		}
		t.Run(fmt.Sprintf("%d MiB/%s/%s", limit>>20, engine, bomb.Name), func(t *testing.T) {
			m := measure(t, plasmd, bomb.Module, limit, engine)
			fmt.Fprintf(rows, "%d\t%s\t%.2f\t%.1f\t%.1f\t  %s\n", len(bomb.Module), m.reason, m.took.Seconds(), mib(m.parent+m.child), mib(m.child), bomb.Name)
			reasons := bomb.Reasons
			if engine == plasm.EngineCompiler && len(bomb.Module) > 50_000 { // the compiler may need too much memory before it starts
				reasons = append(slices.Clone(reasons), plasm.ReasonMemory)
			}
			if !slices.Contains(reasons, m.reason) {
				t.Errorf("ended by %s, want one of %v\n%s", m.reason, reasons, m.output)
			}
			if m.took > 30*timeLimit { // for a busy machine; without the kill it takes minutes
				t.Errorf("took %s under a limit of %s", m.took, timeLimit)
			}
			if sum := m.parent + m.child; sum > limit+allowance {
				t.Errorf("took %.1f MiB of memory (plasmd %.1f, engine %.1f), want %d + %d", mib(sum), mib(m.parent), mib(m.child), limit>>20, allowance>>20)
			}
		})
	}
	rows.Flush()
	t.Logf("%s, limits: memory %d MiB, time %s\n%s", engine, limit>>20, timeLimit, &table)
}

func mib(n int64) float64 { return float64(n) / (1 << 20) }

// A measurement is one run of plasmd.
type measurement struct {
	reason        string
	took          time.Duration
	parent, child int64 // peak of resident memory, bytes; shared pages of the program's file count for the parent
	shared        int64 // shared pages of the engine, bytes
	output        string
}

// measure runs plasmd on a module, started by a small process: the peak of a process includes the memory
// of its parent at the start.
func measure(t *testing.T, plasmd string, module []byte, limit int64, engine string) measurement {
	t.Helper()
	dir := t.TempDir()
	path, receipt := filepath.Join(dir, "bomb.wasm"), filepath.Join(dir, "receipt.json")
	if err := os.WriteFile(path, module, 0o600); err != nil {
		t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self, plasmd, "run", "--engine", engine, "--memory", fmt.Sprint(limit), "--timeout", timeLimit.String(), "--receipt", receipt, path)
	cmd.Args[0] = "measure"
	var output bytes.Buffer
	cmd.Stderr = &output
	figures, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v\n%s", err, &output)
	}
	m := measurement{output: output.String()}
	if _, err := fmt.Sscan(string(figures), &m.parent, &m.child, &m.took); err != nil {
		t.Fatalf("%q: %v", figures, err)
	}
	m.reason = reasonIn(t, receipt, m.output)
	return m
}

// measured runs the command in its arguments and prints the peaks of the command and of its child process,
// and the time. wait4(2) reports the larger peak; the other is sampled while they run.
func measured() int {
	cmd := exec.Command(os.Args[1], os.Args[2:]...)
	cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
	started := time.Now()
	if err := cmd.Start(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	m := measurement{}
	for done := false; !done; {
		select {
		case <-ended:
			done = true
		case <-time.After(time.Millisecond):
			m.sample(cmd.Process.Pid)
		}
	}
	took := time.Since(started).Nanoseconds()
	most := cmd.ProcessState.SysUsage().(*syscall.Rusage).Maxrss << 10
	if m.child >= m.parent {
		m.child = max(m.child, most)
	} else {
		m.parent = max(m.parent, most)
	}
	fmt.Println(m.parent, m.child-m.shared, took)
	return 0
}

// sample updates the peaks.
func (m *measurement) sample(pid int) {
	m.parent = max(m.parent, field(pid, "VmHWM:"))
	var children []byte
	tasks, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	for _, task := range tasks {
		more, _ := os.ReadFile(task)
		children = append(children, more...)
	}
	for _, number := range strings.Fields(string(children)) {
		if child, err := strconv.Atoi(number); err == nil {
			m.child = max(m.child, field(child, "VmHWM:"))
			m.shared = max(m.shared, field(child, "RssFile:"))
		}
	}
}

// field returns a size in the status of a process, in bytes, 0 if the process has ended.
func field(pid int, name string) int64 {
	status, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	_, rest, _ := strings.Cut(string(status), name)
	var kib int64
	fmt.Sscan(rest, &kib)
	return kib << 10
}

// reasonIn returns the reason in a receipt.
func reasonIn(t *testing.T, path, output string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatalf("no receipt: %v\n%s", err, output)
	}
	r, err := receipt.Parse(data)
	if err != nil {
		t.Fatal(err)
	}
	return r.Run.Reason
}
