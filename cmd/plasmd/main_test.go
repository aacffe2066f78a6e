package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/phaseboot/phaseboot/internal/cli"
	"github.com/phaseboot/phaseboot/internal/scripttest"
	"github.com/phaseboot/phaseboot/plasm/wasmtest"
)

func TestMain(m *testing.M) {
	scripttest.Main(m, map[string]func() int{
		"plasmd":  func() int { return cli.Main(newCommand()) },
		"measure": measured,
	})
}

// bombFiles maps hostile modules to their file names in $JOBS.
var bombFiles = map[string]string{
	"1,000 functions with 50,000 locals": "locals.wasm",
	"20,000 times memory.fill of 64 MiB": "straight.wasm",
}

// TestScripts gives every script the demo's job in $JOBS, built as make builds it.
func TestScripts(t *testing.T) {
	jobs := t.TempDir()
	for _, job := range []struct{ name, pkg string }{
		{"hello.wasm", "../../plasm/jobs/hello"},
		{"exit-3", "../../plasm/testdata/greedy"},
	} {
		build := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-ldflags", "-s -w", "-o", filepath.Join(jobs, job.name), job.pkg)
		build.Env = append(os.Environ(), "GOOS=wasip1", "GOARCH=wasm", "CGO_ENABLED=0")
		if output, err := build.CombinedOutput(); err != nil {
			t.Fatalf("%s: %v\n%s", build, err, output)
		}
	}
	for _, bomb := range wasmtest.Bombs() {
		if name := bombFiles[bomb.Name]; name != "" {
			if err := os.WriteFile(filepath.Join(jobs, name), bomb.Module, 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	p := scripttest.Params("testdata/script", func(e *testscript.Env) error {
		e.Setenv("JOBS", jobs)
		return nil
	})
	testscript.Run(t, p)
}

func TestSizesAreParsedAndPrinted(t *testing.T) {
	tests := []struct {
		text string
		want int64 // -1: refused
	}{
		{"0", 0},
		{"1", 1},
		{"64K", 64 << 10},
		{"64M", 64 << 20},
		{"4G", 4 << 30},
		{"1000", 1000},
		{"", -1},
		{"M", -1},
		{"-1", -1},
		{"-1M", -1},
		{"1.5M", -1},
		{"64MB", -1},
		{"64m", -1},
		{"1T", -1},
		{"9223372036854775807", 1<<63 - 1},
		{"9223372036854775808", -1},
		{"9223372036854775807K", -1},
	}
	for _, tt := range tests {
		var s size
		err := s.Set(tt.text)
		if (err != nil) != (tt.want < 0) || err == nil && int64(s) != tt.want {
			t.Errorf("%q: got %d, %v; want %d", tt.text, s, err, tt.want)
		}
		if again := size(0); err == nil && (again.Set(s.String()) != nil || again != s) {
			t.Errorf("%q: printed as %q, which parses as %d", tt.text, s.String(), again)
		}
	}
}
