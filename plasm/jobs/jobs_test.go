package jobs

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"text/tabwriter"
	"time"

	"github.com/phaseboot/phaseboot/plasm"
	"github.com/phaseboot/phaseboot/plasm/wasmtest"
)

// engineRole is the name of the process that runs a job for a test.
const engineRole = "plasm-engine"

var engine = plasm.Process{Args: []string{engineRole}}

func TestMain(m *testing.M) {
	if os.Args[0] == engineRole {
		if err := plasm.Serve(context.Background()); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	code := m.Run()
	if folder != "" {
		os.RemoveAll(folder)
	}
	os.Exit(code)
}

var folder string // with the jobs, after make

// madeBy runs `make jobs`, once for all tests, and returns what it printed.
var madeBy = sync.OnceValues(func() (string, error) {
	var err error
	if folder, err = os.MkdirTemp("", "phase-jobs-"); err != nil {
		return "", err
	}
	out, err := exec.Command("make", "-s", "-C", "../..", "BIN="+folder, "jobs").CombinedOutput()
	if err != nil {
		err = fmt.Errorf("make jobs: %w\n%s", err, out)
	}
	return string(out), err
})

// job returns a job that make jobs has built.
func job(t testing.TB, name string) plasm.Job {
	t.Helper()
	if _, err := madeBy(); err != nil {
		t.Fatal(err)
	}
	module, err := os.ReadFile(filepath.Join(folder, "jobs", name+".wasm"))
	if err != nil {
		t.Fatal(err)
	}
	j, err := plasm.NewJob(t.Context(), name, module)
	if err != nil {
		t.Fatal(err)
	}
	return j
}

// make jobs compares the jobs with SHA256SUMS, if they are of the same version of Go.
func TestJobsAreThoseOfSHA256SUMS(t *testing.T) {
	out, err := madeBy()
	if err != nil {
		t.Fatal(err)
	}
	sums, err := os.ReadFile("SHA256SUMS")
	if err != nil {
		t.Fatal(err)
	}
	if want := "# " + runtime.Version() + "\n"; !strings.HasPrefix(string(sums), want) {
		if !strings.Contains(out, "not compared") {
			t.Errorf("make jobs does not say that another version of Go makes other jobs:\n%s", out)
		}
		t.Logf("SHA256SUMS begins with %.12q, this is %s: the jobs are not compared", sums, runtime.Version())
	}
	built, err := filepath.Glob(filepath.Join(folder, "jobs", "*.wasm"))
	if err != nil || len(built) != strings.Count(string(sums), ".wasm\n") {
		t.Errorf("%d jobs, %v; SHA256SUMS:\n%s", len(built), err, sums)
	}
	for _, path := range built {
		if !strings.Contains(string(sums), "  "+filepath.Base(path)+"\n") {
			t.Errorf("%s is not in SHA256SUMS", filepath.Base(path))
		}
	}
}

func TestHonestJobsDoWhatTheySay(t *testing.T) {
	const text = "äpfel und birnen\nund noch äpfel"
	for _, row := range []struct {
		name  string
		spec  plasm.Spec
		input string
		want  string
	}{
		{"greet", plasm.Spec{}, "", "hello from WebAssembly text\n"},
		{"hello", plasm.Spec{}, "", "hello from a signed WASM job: 1229 primes below 10000\n"},
		{"primes", plasm.Spec{Args: []string{"100"}}, "", "25 primes below 100\n"},
		{"reverse", plasm.Spec{Grants: plasm.Grants{Stdin: true}}, text, "nenrib dnu lefpä\nlefpä hcon dnu"},
		{"wordcount", plasm.Spec{Grants: plasm.Grants{Stdin: true, Scratch: 1 << 20}}, text, "1 birnen 1 noch 2 und 2 äpfel"},
	} {
		for _, engineName := range []string{plasm.EngineInterpreter, plasm.EngineCompiler} {
			if (testing.Short() || wasmtest.RaceDetector) && engineName == plasm.EngineCompiler {
				continue
			}
			t.Run(row.name+"/"+engineName, func(t *testing.T) {
				row.spec.Engine, row.spec.Limits = engineName, plasm.DefaultLimits()
				row.spec.Limits.Timeout = 5 * time.Minute // a busy host must not fail it
				var out, errs bytes.Buffer
				o, err := engine.Run(t.Context(), job(t, row.name), row.spec, plasm.IO{Stdin: strings.NewReader(row.input), Stdout: &out, Stderr: &errs})
				if err != nil || !o.OK() {
					t.Fatalf("%s %s, %v\n%s", o.Reason, o.Detail, err, &errs)
				}
				got := out.String()
				if row.name == "wordcount" { // the order is that of the parts
					lines := strings.Split(strings.TrimSpace(got), "\n")
					for i := range lines {
						lines[i] = strings.TrimSpace(lines[i])
					}
					slices.Sort(lines)
					got = strings.Join(lines, " ")
				}
				if got != row.want {
					t.Errorf("%q, want %q", got, row.want)
				}
			})
		}
	}
}

// hostile are the hostile jobs, the limits under which they run, and the reason of their end.
var hostile = []struct {
	name   string
	engine string
	limits func(*plasm.Limits)
	reason string
}{
	{"hog", plasm.EngineInterpreter, nil, plasm.ReasonMemory},
	{"spin", plasm.EngineInterpreter, brief, plasm.ReasonTimeout},
	{"spin", plasm.EngineInterpreter, func(l *plasm.Limits) { l.CPU = time.Second }, plasm.ReasonCPU},
	{"spin", plasm.EngineCompiler, brief, plasm.ReasonTimeout},
	{"flood", plasm.EngineInterpreter, nil, plasm.ReasonOutput},
	{"deep", plasm.EngineInterpreter, nil, plasm.ReasonStack},
	{"table", plasm.EngineInterpreter, nil, plasm.ReasonTable},
	{"imports", plasm.EngineInterpreter, nil, plasm.ReasonBounds},
	{"compilebomb", plasm.EngineInterpreter, nil, plasm.ReasonMemory},
	{"compilebomb", plasm.EngineCompiler, func(l *plasm.Limits) { l.Memory, l.Compile = 4<<30, 500*time.Millisecond }, plasm.ReasonCompile},
}

// brief is a time limit that ends a job. The others are so long that a busy host does not reach them.
func brief(l *plasm.Limits) { l.Timeout = 3 * time.Second }

// Each hostile job ends at its limit, and four honest jobs beside it do not notice. -v prints a table of
// the figures; they depend on what else the host does, so they are not compared with anything.
func TestHostileJobsBesideHonestOnes(t *testing.T) {
	primes := job(t, "primes")
	alone := honest(t, primes)
	rows := hostile
	if testing.Short() || wasmtest.RaceDetector {
		rows = rows[:2]
	}
	var table bytes.Buffer
	w := tabwriter.NewWriter(&table, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintf(w, "job\tengine\tended by\tafter, s\tCPU, s\tmemory, MiB\thonest, s\tbeside alone\t\n")
	for _, row := range rows {
		hostileJob := job(t, row.name)
		spec := plasm.Spec{Engine: row.engine, Limits: plasm.Limits{Memory: 256 << 20, Timeout: 5 * time.Minute, Output: 64 << 10}}
		if row.limits != nil {
			row.limits(&spec.Limits)
		}
		ended := make(chan plasm.Outcome, 1)
		go func() {
			o, err := engine.Run(t.Context(), hostileJob, spec, plasm.IO{})
			if err != nil {
				t.Errorf("%s: %v", row.name, err)
			}
			ended <- o
		}()
		beside := honest(t, primes)
		o := <-ended
		if o.Reason != row.reason {
			t.Errorf("%s, %s: ended by %q (%s), want %q", row.name, row.engine, o.Reason, o.Detail, row.reason)
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%.2f\t%.2f\t%.1f\t%.2f\t%.2f\t\n", row.name, row.engine, o.Reason, o.Duration().Seconds(),
			o.CPU.Seconds(), float64(o.MemoryPeak)/(1<<20), beside.Seconds(), float64(beside)/float64(alone))
	}
	w.Flush()
	t.Logf("four honest jobs alone: %.2f s\n%s", alone.Seconds(), &table)
	if pid, err := syscall.Wait4(-1, nil, syscall.WNOHANG, nil); !errors.Is(err, syscall.ECHILD) {
		t.Errorf("a process is left: %d, %v", pid, err)
	}
}

// honest runs four honest jobs at once, checks their output, and returns how long the last one took.
func honest(t *testing.T, primes plasm.Job) time.Duration {
	t.Helper()
	started := time.Now()
	var wait sync.WaitGroup
	for range 4 {
		wait.Go(func() {
			var out bytes.Buffer
			spec := plasm.Spec{Args: []string{"500000"}, Engine: plasm.EngineInterpreter, Limits: plasm.DefaultLimits()}
			spec.Limits.Timeout = 5 * time.Minute // a busy host must not fail it
			o, err := engine.Run(t.Context(), primes, spec, plasm.IO{Stdout: &out})
			if want := "41538 primes below 500000\n"; err != nil || !o.OK() || out.String() != want {
				t.Errorf("an honest job: %s (%s), %v, %q", o.Reason, o.Detail, err, &out)
			}
		})
	}
	wait.Wait()
	return time.Since(started)
}
