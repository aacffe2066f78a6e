package plasm

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/internal/netns"
)

// withCode returns the engine with a cache in a new folder.
func withCode(t *testing.T) Process {
	t.Helper()
	return Process{Args: engine.Args, Code: NewCodeCache(filepath.Join(t.TempDir(), "code"), nil)}
}

// named returns a job with its CID.
func named(t *testing.T, module []byte) Job {
	t.Helper()
	job, err := NewJob(t.Context(), "job.wasm", module)
	if err != nil {
		t.Fatal(err)
	}
	return job
}

// numbered returns a job that exits with code 0 and differs from those with other numbers.
func numbered(t *testing.T, n byte) Job {
	t.Helper()
	return named(t, hand{body: []byte{opI32Const, n, opDrop}}.bytes())
}

// compiled runs a job with the compiler and returns its outcome.
func (p Process) compiled(t *testing.T, job Job) Outcome {
	t.Helper()
	o, err := p.Run(t.Context(), job, Spec{Limits: longLimits(), Engine: EngineCompiler}, IO{})
	if err != nil || !o.OK() {
		t.Fatalf("%+v, %v", o, err)
	}
	return o
}

// private returns a new folder for one user.
func private(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "code")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	return dir
}

// stored returns the names of the files of a cache.
func stored(t *testing.T, c *CodeCache) []string {
	t.Helper()
	entries, err := os.ReadDir(c.dir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

// has reports whether a cache has the code of a job.
func (c *CodeCache) has(job Job) bool {
	code := c.find(job)
	code.close()
	return code != nil
}

// TestCompiledCodeIsUsedAgain: the second run of a module does not compile it, and has the same output. A
// job that chooses no engine then uses the code although its time limit is short.
func TestCompiledCodeIsUsedAgain(t *testing.T) {
	p, job := withCode(t), named(t, built(t, "./jobs/hello"))
	run := func(p Process, choice string) (Outcome, string) {
		t.Helper()
		var out bytes.Buffer
		limits := DefaultLimits()
		if choice != "" {
			limits = longLimits()
		}
		o, err := p.Run(t.Context(), job, Spec{Limits: limits, Engine: choice}, IO{Stdout: &out})
		if err != nil || !o.OK() || o.Compile <= 0 || o.Run <= 0 || o.EngineVersion != EngineVersion() {
			t.Fatalf("%+v, %v", o, err)
		}
		return o, out.String()
	}
	if o, _ := run(p, EngineInterpreter); o.Engine != EngineInterpreter || len(stored(t, p.Code)) != 0 {
		t.Errorf("the interpreter stored %v", stored(t, p.Code))
	}
	first, text := run(p, EngineCompiler)
	if !p.Code.has(job) {
		t.Fatalf("stored %v", stored(t, p.Code))
	}
	second, again := run(p, EngineCompiler)
	if again != text || second.CPU > first.CPU/2 {
		t.Errorf("with stored code %q in %s of processor time, without %q in %s", again, second.CPU, text, first.CPU)
	}
	for _, name := range []string{IsolationNamespaces, IsolationSeccomp} {
		if !slices.Contains(second.Isolation, name) {
			t.Errorf("with stored code: isolation %v", second.Isolation)
		}
	}
	if o, unchosen := run(p, ""); o.Engine != EngineCompiler || unchosen != text {
		t.Errorf("with stored code and a short limit: %s, %q", o.Engine, unchosen)
	}
	if o, _ := run(engine, ""); o.Engine != EngineInterpreter {
		t.Errorf("without a cache and with a short limit: %s", o.Engine)
	}
	if info, err := os.Stat(p.Code.path(job)); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	t.Logf("processor time: compiled %s, with stored code %s", first.CPU, second.CPU)
}

// TestAJobCannotReachCompiledCode runs a process with stored code that tries to read and change it, as code
// could that has broken out of the engine.
func TestAJobCannotReachCompiledCode(t *testing.T) {
	p, job := withCode(t), numbered(t, 1)
	p.compiled(t, job)
	before, err := os.ReadFile(p.Code.path(job))
	if err != nil {
		t.Fatal(err)
	}
	var done strings.Builder
	hostile := Process{Args: []string{"tries the host"}, Code: p.Code}
	o, err := hostile.Run(t.Context(), job, Spec{Limits: longLimits(), Engine: EngineCompiler}, IO{Stdout: &done})
	if err != nil || !o.OK() || done.Len() > 0 {
		t.Errorf("%+v, %v; the process could:\n%s", o, err, &done)
	}
	for _, role := range []string{"sends code", "begins, then sends code"} {
		for _, job := range []Job{job, numbered(t, 2)} { // with stored code, and without
			o, err := Process{Args: []string{role}, Code: p.Code}.Run(t.Context(), job, Spec{Limits: longLimits(), Engine: EngineInterpreter}, IO{})
			if err != nil || o.Reason != ReasonKilled || !strings.Contains(o.Detail, `unknown frame 'k'`) {
				t.Errorf("%s: %+v, %v", role, o, err)
			}
		}
	}
	// A process that is to compile, and says that a job began, is not believed.
	o, err = Process{Args: []string{"begins, then sends code"}, Code: p.Code}.Run(t.Context(), numbered(t, 2), Spec{Limits: longLimits(), Engine: EngineCompiler}, IO{})
	if err != nil || o.Reason != ReasonKilled {
		t.Errorf("%+v, %v", o, err)
	}
	after, err := os.ReadFile(p.Code.path(job))
	if err != nil || !bytes.Equal(before, after) || len(stored(t, p.Code)) != 1 {
		t.Errorf("the cache has changed: %v, %v", stored(t, p.Code), err)
	}
}

func init() {
	roles["sends code"] = func() {
		_, _ = reply().code().Write([]byte("code"))
		_ = reply().send(frameKept, nil)
		time.Sleep(time.Hour)
	}
	roles["begins, then sends code"] = func() {
		_ = reply().sendJSON(frameBegin, beginning{})
		_, _ = reply().code().Write([]byte("code"))
		_ = reply().send(frameKept, nil)
		time.Sleep(time.Hour)
	}
	roles["dies while it compiles"] = func() {
		if q, _, _, err := receive(os.NewFile(fdRequest, "request")); err == nil && !q.Keep {
			sendResult(result{Reason: ReasonExit})
			return
		}
		_, _ = reply().code().Write([]byte("code"))
		os.Exit(2)
	}
	roles["has no namespaces"] = func() {
		pipe := os.NewFile(fdRequest, "request")
		q, module, code, err := receive(pipe)
		q.Mounts = "" // as if the kernel had given it none
		line, err2 := json.Marshal(q)
		in := io.MultiReader(bytes.NewReader(append(line, '\n')), bytes.NewReader(module), code)
		if err := errors.Join(err, err2, serve(context.Background(), in, reply(), &sandbox{request: pipe})); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
	roles["is killed while it stores"] = func() {
		job := Job{Name: "job.wasm", Module: hand{}.bytes()}
		job, _ = NewJob(context.Background(), job.Name, job.Module)
		_ = NewCodeCache(os.Getenv("PLASM_TEST_CODE"), nil).store(job, func(w io.Writer) error {
			_, _ = w.Write([]byte("half"))
			_ = unix.Kill(os.Getpid(), unix.SIGKILL)
			select {}
		})
	}
}

// TestTheProcessWithCompiledCodeSeesNoFolderOfTheHost looks at the process of a running job from outside.
func TestTheProcessWithCompiledCodeSeesNoFolderOfTheHost(t *testing.T) {
	p, job := withCode(t), named(t, hand{body: []byte{opLoop, typeVoid, opBr, 0, opEnd}}.bytes())
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	spec := Spec{Limits: tight, Engine: EngineCompiler}
	began := make(chan struct{})
	go func() {
		defer close(began)
		for !p.Code.has(job) && ctx.Err() == nil { // the first process ends with this
			time.Sleep(time.Millisecond)
		}
	}()
	ended := make(chan error, 1)
	go func() { _, err := p.Run(ctx, job, spec, IO{}); ended <- err }()
	<-began
	for {
		pid := childOf(t, os.Getpid())
		status, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
		mounts, _ := os.ReadFile(fmt.Sprintf("/proc/%d/mountinfo", pid))
		if !strings.Contains(string(status), "Seccomp_filters:\t2") { // the job has not begun
			time.Sleep(time.Millisecond)
			continue
		}
		if strings.Count(string(mounts), "\n") != 1 || !strings.Contains(string(mounts), " - tmpfs tmpfs ") {
			t.Errorf("mounts of the process:\n%s", mounts)
		}
		limits, _ := os.ReadFile(fmt.Sprintf("/proc/%d/limits", pid))
		if !strings.Contains(strings.Join(strings.Fields(string(limits)), " "), "Max file size 0 0") {
			t.Errorf("limits of the process:\n%s", limits)
		}
		files, _ := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid))
		for _, f := range files {
			if to, _ := os.Readlink(f); strings.HasPrefix(to, p.Code.dir) || strings.HasPrefix(to, codeDir) {
				t.Errorf("file descriptor %s is %s", filepath.Base(f), to)
			}
		}
		left, _ := filepath.Glob(fmt.Sprintf("/proc/%d/root/code/*/*", pid))
		if len(left) > 0 || len(files) == 0 {
			t.Errorf("files of the process: %v; %d file descriptors", left, len(files))
		}
		break
	}
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

// TestDamagedCodeIsNotUsed changes a stored file in every way that a disk could.
func TestDamagedCodeIsNotUsed(t *testing.T) {
	p, job := withCode(t), numbered(t, 1)
	p.compiled(t, job)
	path := p.Code.path(job)
	good, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	flip := func(at int) []byte {
		bad := bytes.Clone(good)
		bad[at] ^= 1
		return bad
	}
	for name, bad := range map[string][]byte{
		"first byte": flip(0), "version": flip(20), "module": flip(len(codeHeader(job)) - 3), "name of the code": flip(len(codeHeader(job)) + 3),
		"code": flip(len(good) - 300), "digest": flip(len(good) - 1), "empty": {}, "header only": good[:len(codeHeader(job))],
		"truncated": good[:len(good)-1], "half": good[:len(good)/2], "longer": append(bytes.Clone(good), 0),
	} {
		if err := os.WriteFile(path, bad, 0o600); err != nil {
			t.Fatal(err)
		}
		if p.Code.has(job) || len(stored(t, p.Code)) != 0 {
			t.Errorf("%s: used, or not removed: %v", name, stored(t, p.Code))
		}
	}
	if err := os.WriteFile(path, flip(len(good)-300), 0o600); err != nil {
		t.Fatal(err)
	}
	p.compiled(t, job)
	if !p.Code.has(job) {
		t.Error("not compiled again")
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	other := filepath.Join(t.TempDir(), "other")
	if err := errors.Join(os.WriteFile(other, good, 0o600), os.Symlink(other, path)); err != nil {
		t.Fatal(err)
	}
	if p.Code.has(job) {
		t.Error("a link was followed")
	}
}

// Files of another version of the engine are removed, also if the name is that of this one.
func TestCodeOfAnotherVersionIsRemoved(t *testing.T) {
	p, job := withCode(t), numbered(t, 1)
	p.compiled(t, job)
	path := p.Code.path(job)
	old := filepath.Join(p.Code.dir, job.CID.String()+codeSuffix("wazero v1.0.0"))
	if err := errors.Join(os.WriteFile(old, []byte("x"), 0o600)); err != nil {
		t.Fatal(err)
	}
	NewCodeCache(p.Code.dir, nil)
	if names := stored(t, p.Code); len(names) != 1 || names[0] != filepath.Base(path) {
		t.Errorf("left %v", names)
	}
	another := numbered(t, 2)
	if err := os.Rename(path, p.Code.path(another)); err != nil {
		t.Fatal(err)
	}
	if p.Code.has(another) || p.Code.has(job) {
		t.Error("the code of another module was used")
	}
}

// A folder into which others may write is neither read nor written.
func TestAFolderOfOthersStoresNoCode(t *testing.T) {
	p, job := withCode(t), numbered(t, 1)
	p.compiled(t, job)
	for _, tt := range []struct {
		name  string
		spoil func() error
	}{
		{"mode", func() error { return os.Chmod(p.Code.dir, 0o777) }},
		{"link", func() error {
			return errors.Join(os.Rename(p.Code.dir, p.Code.dir+"2"), os.Symlink(p.Code.dir+"2", p.Code.dir))
		}},
	} {
		if err := tt.spoil(); err != nil {
			t.Fatal(err)
		}
		if p.Code.has(job) || p.Code.takes(job) {
			t.Errorf("%s: the folder is used", tt.name)
		}
		p.compiled(t, numbered(t, 2))
		if err := os.Chmod(p.Code.dir, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if names := stored(t, p.Code); len(names) != 1 {
		t.Errorf("stored %v", names)
	}
}

// A folder that has other files, or is one of another user, keeps them: the state folder of a daemon may be any
// folder, and "code" is an ordinary name.
func TestFilesOfOthersStayInTheFolder(t *testing.T) {
	dir := private(t)
	job, suffix := numbered(t, 1), codeSuffix("wazero v1.0.0")
	ours := []string{job.CID.String() + suffix, "." + job.CID.String() + suffix + ".123"}
	others := []string{"main.go", ".bashrc", "notes" + suffix, "." + job.CID.String(), job.CID.String() + "-x", "." + job.CID.String() + "-0123.swp"}
	old := time.Now().Add(-2 * staleAfter)
	for _, name := range append(ours, others...) {
		path := filepath.Join(dir, name)
		if err := errors.Join(os.WriteFile(path, []byte("x"), 0o600), os.Chtimes(path, old, old)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	if names := stored(t, NewCodeCache(dir, nil)); len(names) != len(ours)+len(others) {
		t.Errorf("files were removed in a folder of others; left %q", names)
	}
	if err := os.Chmod(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	names := stored(t, NewCodeCache(dir, nil))
	slices.Sort(others)
	if !slices.Equal(names, others) {
		t.Errorf("left %q, want %q", names, others)
	}
}

// A file into which others may write, or that is not of this user, is not trusted, whatever its digest says.
func TestCodeThatOthersMayWriteIsNotUsed(t *testing.T) {
	spoils := map[string]func(path string) error{"mode": func(path string) error { return os.Chmod(path, 0o622) }}
	if os.Geteuid() == 0 {
		spoils["owner"] = func(path string) error { return os.Chown(path, nobody, nobody) }
	}
	for name, spoil := range spoils {
		p, job := withCode(t), numbered(t, 1)
		p.compiled(t, job)
		if err := spoil(p.Code.path(job)); err != nil {
			t.Fatal(err)
		}
		if p.Code.has(job) {
			t.Errorf("%s: the code was used", name)
		}
	}
}

func TestFirstCompilesAtOnce(t *testing.T) {
	p, job := withCode(t), named(t, built(t, "./jobs/hello"))
	var runs sync.WaitGroup
	for range 3 {
		runs.Go(func() {
			o, err := p.Run(t.Context(), job, Spec{Limits: longLimits(), Engine: EngineCompiler}, IO{})
			if err != nil || !o.OK() {
				t.Errorf("%+v, %v", o, err)
			}
		})
	}
	runs.Wait()
	if len(stored(t, p.Code)) != 1 || !p.Code.has(job) {
		t.Errorf("stored %v", stored(t, p.Code))
	}
}

// TestTheCacheOfCodeIsBounded: what was not used for the longest time goes first.
func TestTheCacheOfCodeIsBounded(t *testing.T) {
	c := NewCodeCache(private(t), nil)
	c.most = 3500
	jobs := []Job{numbered(t, 1), numbered(t, 2), numbered(t, 3), numbered(t, 4)}
	for i, job := range jobs {
		if i == 3 && !c.has(jobs[0]) { // it is used
			t.Fatal("the first is gone")
		}
		if err := c.store(job, func(w io.Writer) error { _, err := w.Write(make([]byte, 900)); return err }); err != nil {
			t.Fatal(err)
		}
		if i < 3 {
			then := time.Now().Add(time.Duration(i-10) * time.Minute)
			if err := os.Chtimes(c.path(job), then, then); err != nil {
				t.Fatal(err)
			}
		}
	}
	for i, want := range []bool{true, false, true, true} {
		if c.has(jobs[i]) != want {
			t.Errorf("job %d is stored: %t, want %t", i, !want, want)
		}
	}
}

// A process that was killed while it stored code leaves a file that is never used and goes after a while.
func TestAKillWhileCodeIsStored(t *testing.T) {
	c, job := NewCodeCache(private(t), nil), named(t, hand{}.bytes())
	process, err := os.StartProcess("/proc/self/exe", []string{"is killed while it stores"}, &os.ProcAttr{
		Env: []string{"PLASM_TEST_CODE=" + c.dir}, Files: []*os.File{nil, os.Stderr, os.Stderr},
	})
	if err != nil {
		t.Fatal(err)
	}
	if state, err := process.Wait(); err != nil || !state.Sys().(syscall.WaitStatus).Signaled() {
		t.Fatalf("%v, %v", state, err)
	}
	names := stored(t, c)
	if len(names) != 1 || c.has(job) {
		t.Fatalf("stored %v", names)
	}
	c.clean() // another process could still write it
	if len(stored(t, c)) != 1 {
		t.Error("removed at once")
	}
	old := time.Now().Add(-2 * staleAfter)
	if err := os.Chtimes(filepath.Join(c.dir, names[0]), old, old); err != nil {
		t.Fatal(err)
	}
	if c.clean(); len(stored(t, c)) != 0 {
		t.Errorf("left %v", stored(t, c))
	}
	p := Process{Args: engine.Args, Code: c}
	p.compiled(t, job)
	if !c.has(job) {
		t.Error("not stored")
	}
}

// On a full disk nothing is stored, nothing is left, and the job runs.
func TestAFullDiskStoresNoCode(t *testing.T) {
	if !netns.Inside(t) { // for its mounts
		return
	}
	disk := t.TempDir()
	if err := unix.Mount("small-disk", disk, "tmpfs", 0, "size=64k"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(disk, unix.MNT_DETACH) })
	p, job := Process{Args: engine.Args, Code: NewCodeCache(filepath.Join(disk, "code"), nil)}, numbered(t, 1)
	if p.Code.takes(job) {
		t.Error("takes code without room for it")
	}
	err := p.Code.store(job, func(w io.Writer) error { _, err := w.Write(make([]byte, 100<<10)); return err })
	if !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("stored: %v", err)
	}
	p.compiled(t, job)
	if len(stored(t, p.Code)) != 0 {
		t.Errorf("left %v", stored(t, p.Code))
	}
}

// TestACacheDoesNotChangeTheOutcome: a job that the compiler ends or refuses ends the same with a cache, and
// nothing is stored.
func TestACacheDoesNotChangeTheOutcome(t *testing.T) {
	large := built(t, "./jobs/hello")
	for _, tt := range []struct {
		name   string
		module []byte
		edit   func(*Limits)
		reason string // "" for an error
	}{
		{"limit of the preparation", large, func(l *Limits) { l.Compile = time.Millisecond }, ReasonCompile},
		{"limit of time", large, func(l *Limits) { l.Timeout = 20 * time.Millisecond }, ReasonTimeout},
		{"limit of processor time", large, func(l *Limits) { l.CPU = 20 * time.Millisecond }, ReasonCPU},
		{"no memory for the code", large, func(l *Limits) { l.Memory = 1 << 20 }, ReasonMemory},
		{"too much memory at the start", hand{memory: []byte{0, 32}}.bytes(), func(l *Limits) { l.Memory = 1 << 20 }, ReasonMemory},
		{"unknown import", hand{source: "env", name: "f"}.bytes(), func(*Limits) {}, ReasonImport},
		{"not a module", []byte("#!/bin/sh\n"), func(*Limits) {}, ""},
	} {
		lim := tight
		tt.edit(&lim)
		for _, p := range []Process{withCode(t), engine} {
			o, err := p.Run(t.Context(), named(t, tt.module), Spec{Limits: lim, Engine: EngineCompiler, Grants: Grants{Stdin: true, Scratch: 1 << 20}}, IO{Stdin: strings.NewReader("input")})
			if o.Reason != tt.reason || errors.Is(err, cas.ErrCorrupt) != (tt.reason == "") || tt.reason != "" && o.Engine != EngineCompiler {
				t.Errorf("%s: %+v, %v; want %q", tt.name, o, err, tt.reason)
			}
			if tt.reason != "" && (len(o.Stdout.SHA256) != 64 || len(o.InputSHA256) != 64 || o.Started.IsZero()) {
				t.Errorf("%s: not enough for a receipt: %+v", tt.name, o)
			}
			if p.Code != nil && len(stored(t, p.Code)) > 0 {
				t.Errorf("%s: stored %v", tt.name, stored(t, p.Code))
			}
		}
	}
	// A process that dies while it compiles takes the job nothing but time.
	p, job := withCode(t), numbered(t, 1)
	p.Args = []string{"dies while it compiles"}
	if o, err := p.Run(t.Context(), job, Spec{Limits: tight, Engine: EngineCompiler}, IO{}); err != nil || !o.OK() || len(stored(t, p.Code)) != 0 {
		t.Errorf("%+v, %v; stored %v", o, err, stored(t, p.Code))
	}
}

// Without namespaces, no code is stored or used, because there is no folder in memory for it.
func TestWithoutNamespacesNoCodeIsStored(t *testing.T) {
	p, job := withCode(t), numbered(t, 1)
	without := Process{Args: []string{"has no namespaces"}, Code: p.Code}
	for _, files := range []int{0, 1} {
		if o := without.compiled(t, job); slices.Contains(o.Isolation, IsolationNamespaces) || len(stored(t, p.Code)) != files {
			t.Errorf("%+v; stored %v", o, stored(t, p.Code))
		}
		p.compiled(t, job)
	}
}

// The limits of time hold for both processes of a first run together.
func TestACacheKeepsTheLimitsOfTime(t *testing.T) {
	loop := hand{body: []byte{opLoop, typeVoid, opBr, 0, opEnd}}.bytes()
	for _, tt := range []struct {
		reason string
		edit   func(*Limits)
	}{
		{ReasonTimeout, func(l *Limits) { l.Timeout = 2 * time.Second }},
		{ReasonCPU, func(l *Limits) { l.CPU = time.Second }},
	} {
		lim := tight
		tt.edit(&lim)
		p, job := withCode(t), named(t, loop)
		o, err := p.Run(t.Context(), job, Spec{Limits: lim, Engine: EngineCompiler}, IO{})
		if err != nil || o.Reason != tt.reason || !p.Code.has(job) {
			t.Fatalf("%+v, %v; stored %v", o, err, stored(t, p.Code))
		}
		if lim.CPU > 0 && (o.CPU < lim.CPU || o.CPU > lim.CPU+2*time.Second) {
			t.Errorf("%s of processor time, the limit is %s", o.CPU, lim.CPU)
		}
		if took := o.Duration(); lim.CPU == 0 && (took < lim.Timeout || took > lim.Timeout+2*time.Second) {
			t.Errorf("took %s, the limit is %s", took, lim.Timeout)
		}
	}
}

// Without a CID or a cache, nothing is stored.
func TestNoCacheStoresNothing(t *testing.T) {
	var none *CodeCache
	job := numbered(t, 1)
	if none.has(job) || none.takes(job) {
		t.Error("a nil cache stores code")
	}
	p := withCode(t)
	job.CID = Job{}.CID
	p.compiled(t, job)
	if len(stored(t, p.Code)) != 0 {
		t.Errorf("stored %v", stored(t, p.Code))
	}
	p.compiled(t, named(t, append(hand{}.bytes(), section(nil, 0, join(text("x"), make([]byte, maxCachedJob)))...)))
	if len(stored(t, p.Code)) != 0 {
		t.Errorf("stored the code of a large module: %v", stored(t, p.Code))
	}
}
