package main

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/internal/cli"
	"github.com/phaseboot/phaseboot/internal/scripttest"
	"github.com/phaseboot/phaseboot/manifest/repotest"
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
		{"reverse.wasm", "../../plasm/jobs/reverse"},
		{"spin.wasm", "../../plasm/jobs/spin"},
		{"granted", "../../plasm/testdata/granted"},
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
	hello, err := os.Open(filepath.Join(jobs, "hello.wasm"))
	if err != nil {
		t.Fatal(err)
	}
	defer hello.Close()
	signed, err := cas.FileCID(t.Context(), hello, cas.DefaultChunker)
	if err != nil {
		t.Fatal(err)
	}
	repo := repository(t, jobs)
	p := scripttest.Params("testdata/script", func(e *testscript.Env) error {
		e.Setenv("JOBS", jobs)
		e.Setenv("HELLO", signed.CID.String()) // CID of hello.wasm
		e.Setenv("CHUNKER", cas.DefaultChunker)
		e.Setenv("REPO", repo)
		e.Setenv("XDG_CACHE_HOME", filepath.Join(e.WorkDir, "cache"))
		return nil
	})
	testscript.Run(t, p)
}

// repository makes a repository whose release 1.2 of stable-x86_64, version 3, has the demo's job.
func repository(t *testing.T, jobs string) string {
	t.Helper()
	dir, other := filepath.Join(t.TempDir(), "repo"), filepath.Join(t.TempDir(), "other")
	if err := os.WriteFile(other, []byte("other"), 0o600); err != nil {
		t.Fatal(err)
	}
	files := map[string]string{"kernel": other, "initramfs": other, "job/hello.wasm": filepath.Join(jobs, "hello.wasm")}
	if err := errors.Join(repotest.New(dir), repotest.Rotate(dir, 2), repotest.Publish(dir, 3, "1.2", time.Unix(1e9, 0), files)); err != nil {
		t.Fatal(err)
	}
	return dir
}
