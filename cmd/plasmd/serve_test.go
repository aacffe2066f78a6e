package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"mime/multipart"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/phaseboot/phaseboot/plasm"
	"github.com/phaseboot/phaseboot/plasm/api"
	"github.com/phaseboot/phaseboot/plasm/receipt"
)

// exits0 is a module whose _start returns at once.
var exits0 = []byte("\x00asm\x01\x00\x00\x00\x01\x04\x01\x60\x00\x00\x03\x02\x01\x00\x05\x03\x01\x00\x01\x07\x13\x02\x06memory\x02\x00\x06_start\x00\x00\x0a\x04\x01\x02\x00\x0b")

// A served is a running plasmd serve.
type served struct {
	t      *testing.T
	cmd    *exec.Cmd
	socket string
	http   *http.Client
	log    bytes.Buffer
}

// serveIn starts plasmd serve with the state and socket in a folder, and waits until it is ready.
func serveIn(t *testing.T, dir string, args ...string) *served {
	t.Helper()
	s := &served{t: t, socket: filepath.Join(dir, "s")}
	s.cmd = exec.Command("plasmd", append([]string{"serve", "--state", filepath.Join(dir, "state"), "--socket", s.socket, "--log-level", "warn"}, args...)...)
	s.cmd.Stderr = &s.log
	out, err := s.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.cmd.Process.Kill() })
	if _, err := out.Read(make([]byte, 4096)); err != nil {
		_ = s.cmd.Wait()
		t.Fatalf("not ready: %v\n%s", err, &s.log)
	}
	s.connect()
	return s
}

// connect makes the client of the socket. It has no time limit, because an output is followed until the job and those
// before it have ended.
func (s *served) connect() {
	s.http = &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", s.socket)
	}}}
}

// submit submits a module; an error means that no answer came.
func (s *served) submit(module []byte) (j api.Job, err error) {
	return s.submitSpec(module, func(*plasm.Spec) {})
}

// submitSpec submits a module with a changed spec.
func (s *served) submitSpec(module []byte, change func(*plasm.Spec)) (j api.Job, err error) {
	var body bytes.Buffer
	w := multipart.NewWriter(&body)
	spec := plasm.DefaultSpec()
	change(&spec)
	text, _ := json.Marshal(api.Request{Name: "job", Spec: spec})
	for _, part := range []struct {
		name string
		data []byte
	}{{api.PartJob, text}, {api.PartModule, module}} {
		p, _ := w.CreateFormFile(part.name, part.name)
		_, _ = p.Write(part.data)
	}
	w.Close()
	resp, err := s.http.Post("http://plasmd"+api.Jobs, w.FormDataContentType(), &body)
	if err != nil {
		return j, err
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusAccepted {
		return j, fmt.Errorf("%d %s", resp.StatusCode, data)
	}
	if err == nil {
		err = json.Unmarshal(data, &j)
	}
	return j, err
}

func (s *served) get(path string) string {
	s.t.Helper()
	resp, err := s.http.Get("http://plasmd" + path)
	if err != nil {
		s.t.Fatal(err)
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		s.t.Fatal(err)
	}
	return string(data)
}

// end waits for the outcome of a job.
func (s *served) end(id string) (j api.Job) {
	s.t.Helper()
	s.get(api.Jobs + "/" + id + api.Output + "?follow=1")
	if err := json.Unmarshal([]byte(s.get(api.Jobs+"/"+id)), &j); err != nil {
		s.t.Fatal(err)
	}
	return j
}

// TestServeRunsAJobAndEnds runs a job, refuses a second daemon, and stops.
func TestServeRunsAJobAndEnds(t *testing.T) {
	dir := t.TempDir()
	s := serveIn(t, dir)
	accepted, err := s.submit(exits0)
	if err != nil {
		t.Fatal(err)
	}
	if j := s.end(accepted.ID); j.State != api.StateDone || j.Reason != plasm.ReasonExit || j.ExitCode != 0 {
		t.Errorf("ended as %+v\n%s", j, &s.log)
	}
	if _, err := receipt.Parse([]byte(s.get(api.Jobs + "/" + accepted.ID + api.Receipt))); err != nil {
		t.Error(err)
	}
	if info, err := os.Stat(s.socket); err != nil || info.Mode().Perm() != 0o660 {
		t.Errorf("socket: %v, %v", info.Mode(), err)
	}
	for name, c := range map[string]struct{ args, want string }{
		"one store":    {"--state " + filepath.Join(dir, "state") + " --socket " + filepath.Join(dir, "other"), "another plasmd uses it"},
		"taken socket": {"--state " + filepath.Join(dir, "other") + " --socket " + s.socket, "another process listens there"},
	} {
		out, err := exec.Command("plasmd", append([]string{"serve", "--log-level", "error"}, strings.Fields(c.args)...)...).CombinedOutput()
		if code := exitCodeOf(err); code != 1 || strings.Count(string(out), "\n") != 1 || !strings.Contains(string(out), c.want) {
			t.Errorf("%s: exit code %d\n%s", name, code, out)
		}
	}
	_ = s.cmd.Process.Signal(syscall.SIGTERM)
	if err := s.cmd.Wait(); err != nil {
		t.Errorf("after SIGTERM: %v\n%s", err, &s.log)
	}
}

func exitCodeOf(err error) int {
	if e, ok := err.(*exec.ExitError); ok {
		return e.ExitCode()
	}
	return 0
}

// TestAKilledDaemonLeavesOneOutcomeForEachJob kills the daemon with SIGKILL at random moments while jobs are
// submitted. Each job that was accepted has one outcome at the end, and an outcome that was shown before a kill
// is the same after it. 20 rounds; the variable PLASM_KILL_ROUNDS has another number, such as 500.
func TestAKilledDaemonLeavesOneOutcomeForEachJob(t *testing.T) {
	rounds := 20
	if text := os.Getenv("PLASM_KILL_ROUNDS"); text != "" {
		n, err := strconv.Atoi(text)
		if err != nil || n < 1 {
			t.Fatalf("PLASM_KILL_ROUNDS=%s: give a number of rounds", text)
		}
		rounds = n
	}
	dir := t.TempDir()
	accepted, shown := map[string]bool{}, map[string]string{}
	reasons := map[string]int{}
	check := func(s *served) {
		t.Helper()
		var list api.List
		if err := json.Unmarshal([]byte(s.get(api.Jobs)), &list); err != nil {
			t.Fatal(err)
		}
		for _, j := range list.Jobs {
			if j.State != api.StateDone {
				continue
			}
			outcome := fmt.Sprint(j.Reason, j.ExitCode, j.Started, j.Ended)
			if before := shown[j.ID]; before != "" && before != outcome {
				t.Errorf("job %s had the outcome %s, and now has %s", j.ID, before, outcome)
			}
			if shown[j.ID] == "" {
				reasons[j.Reason]++
			}
			shown[j.ID] = outcome
		}
	}
	for round := range rounds {
		s := serveIn(t, dir, "--workers", "2")
		check(s)
		stop := time.AfterFunc(time.Duration(rand.IntN(300))*time.Millisecond, func() { _ = s.cmd.Process.Kill() })
		for {
			j, err := s.submit(exits0)
			if err != nil && strings.HasPrefix(err.Error(), "503") { // the queue is full
				time.Sleep(5 * time.Millisecond)
				continue
			}
			if err != nil {
				break
			}
			accepted[j.ID] = true
		}
		stop.Stop()
		_ = s.cmd.Process.Kill()
		_ = s.cmd.Wait()
		if t.Failed() {
			t.Fatalf("round %d\n%s", round, &s.log)
		}
	}
	s := serveIn(t, dir, "--workers", "2")
	var list api.List
	if err := json.Unmarshal([]byte(s.get(api.Jobs)), &list); err != nil {
		t.Fatal(err)
	}
	for _, j := range list.Jobs { // the newest first: those that wait
		if j = s.end(j.ID); j.State != api.StateDone || j.Reason == "" {
			t.Errorf("job %+v has no outcome", j)
		}
	}
	check(s)
	for id := range accepted {
		if shown[id] == "" {
			t.Errorf("job %s was accepted and has no outcome", id)
		}
	}
	t.Logf("%d rounds: %d jobs accepted, outcomes %v", rounds, len(accepted), reasons)
	_ = s.cmd.Process.Signal(syscall.SIGTERM)
	_ = s.cmd.Wait()
}

// TestPrivateModeStoresNoCode: the daemon stores compiled code in its state folder, and in private mode none
// anywhere that the process may write to.
func TestPrivateModeStoresNoCode(t *testing.T) {
	for _, private := range []bool{false, true} {
		dir, err := os.MkdirTemp("/dev/shm", "plasmd")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { os.RemoveAll(dir) })
		home := t.TempDir()
		t.Setenv("HOME", home)
		t.Setenv("XDG_CACHE_HOME", filepath.Join(home, "cache"))
		t.Setenv("TMPDIR", home)
		args := []string{"--workers", "1"}
		if private {
			args = append(args, "--private")
		}
		s := serveIn(t, dir, args...)
		for range 2 {
			j, err := s.submitSpec(exits0, func(spec *plasm.Spec) { spec.Engine = plasm.EngineCompiler })
			if err != nil {
				t.Fatal(err)
			}
			if j = s.end(j.ID); j.Reason != plasm.ReasonExit || j.ExitCode != 0 {
				t.Errorf("%+v\n%s", j, &s.log)
			}
		}
		_ = s.cmd.Process.Signal(syscall.SIGTERM)
		_ = s.cmd.Wait()
		code, _ := filepath.Glob(filepath.Join(dir, "state", "code", "*"))
		_, none := os.Lstat(filepath.Join(dir, "state", "code"))
		if private && none == nil || !private && len(code) != 1 {
			t.Errorf("private %t: stored %v\n%s", private, code, &s.log)
		}
		if left, err := os.ReadDir(home); err != nil || len(left) > 0 {
			t.Errorf("private %t: in the home folder: %v, %v", private, left, err)
		}
	}
}
