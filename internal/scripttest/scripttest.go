// Package scripttest runs the testscript files of a command, in the test's own
// binary and without building anything first. Every cmd/* uses it; start at Main
// and Run.
//
//	func TestMain(m *testing.M) {
//		scripttest.Main(m, map[string]func() int{"phase-sign": func() int { return cli.Main(newCommand()) }})
//	}
//
//	func TestScripts(t *testing.T) { scripttest.Run(t, "testdata/script") }
//
// A script has one verb beyond testscript's own, because an exit code is a promise:
//
//	exits 4 phase-sign cid nothing-here
//	stderr 'nothing-here'
package scripttest

import (
	"errors"
	"os"
	"os/exec"
	"strconv"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
)

// Main runs the tests, or the command whose name the binary was started by. It
// does not return.
func Main(m *testing.M, commands map[string]func() int) {
	if os.Getenv(raceOptions) == "" {
		os.Setenv(raceOptions, noWaitAtExit)
	}
	mains := make(map[string]func(), len(commands))
	for name, run := range commands {
		mains[name] = func() { os.Exit(run()) }
	}
	testscript.Main(m, mains)
}

// Run runs every script (*.txtar) of a folder as a parallel subtest.
func Run(t *testing.T, dir string) {
	t.Helper()
	testscript.Run(t, Params(dir, nil))
}

// Tests and scripts start hundreds of programs. One that was built with the race detector
// waits a second before it ends, for the reports of other goroutines, unless it is told not to.
const (
	raceOptions  = "GORACE"
	noWaitAtExit = "atexit_sleep_ms=0"
)

// Params is what Run passes, for a test that adds its own setup (which may be nil) or verbs.
func Params(dir string, setup func(*testscript.Env) error) testscript.Params {
	return testscript.Params{
		Setup: func(e *testscript.Env) error {
			e.Setenv(raceOptions, os.Getenv(raceOptions))
			if setup == nil {
				return nil
			}
			return setup(e)
		},
		Dir:                 dir,
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Cmds:                map[string]func(*testscript.TestScript, bool, []string){"exits": exits},
	}
}

// exits runs a command and demands exactly the exit code that the line names.
func exits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exits CODE COMMAND [ARG …]")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	got := 0
	if err := ts.Exec(args[1], args[2:]...); err != nil {
		var ended *exec.ExitError
		if !errors.As(err, &ended) {
			ts.Fatalf("%s: %v", args[1], err)
		}
		got = ended.ExitCode()
	}
	if got != want {
		ts.Fatalf("%s: exit code %d, want %d", args[1], got, want)
	}
}
