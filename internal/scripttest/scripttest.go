// Package scripttest runs the testscript files of a command inside the test binary, without
// building the command. Every cmd/* uses it; start at Main and Run.
//
//	func TestMain(m *testing.M) {
//		scripttest.Main(m, map[string]func() int{"phase-sign": func() int { return cli.Main(newCommand()) }})
//	}
//
//	func TestScripts(t *testing.T) { scripttest.Run(t, "testdata/script") }
//
// Scripts have one command in addition to those of testscript, to check an exit code:
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

// Main runs the tests, or the command by whose name the binary was started. It does not return.
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

// A program with the race detector waits a second at exit for reports of other goroutines, unless
// GORACE says otherwise. Tests start hundreds of programs.
const (
	raceOptions  = "GORACE"
	noWaitAtExit = "atexit_sleep_ms=0"
)

// Params returns the parameters of Run, for a test that adds a setup (which may be nil) or commands.
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

// exits runs a command and fails unless it has the given exit code.
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
