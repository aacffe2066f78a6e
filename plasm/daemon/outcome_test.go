package daemon

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"

	"github.com/phaseboot/phaseboot/internal/netns"
	"github.com/phaseboot/phaseboot/plasm"
	"github.com/phaseboot/phaseboot/plasm/api"
	"github.com/phaseboot/phaseboot/plasm/queue"
)

// idle returns a daemon whose workers have not begun.
func idle(t *testing.T, dir string, change func(*Options)) *Daemon {
	t.Helper()
	q, err := queue.Open(dir, queue.Options{})
	check(t, err)
	t.Cleanup(func() { q.Close() })
	o := Options{Queue: q, Key: machineKey, Release: &release, Engine: engine, ExitCode: exitCode}
	if change != nil {
		change(&o)
	}
	d, err := New(o)
	check(t, err)
	return d
}

// accepted submits a job that runs until it is ended, with an input.
func accepted(t *testing.T, d *Daemon, request string) string {
	t.Helper()
	a := ask(d.Local(), form("job", request, "module", "m", "input", "an input"))
	if a.status != http.StatusAccepted {
		t.Fatal(a.body)
	}
	return a.job.ID
}

// A job that is cancelled after a worker has claimed it, and before the worker can be told, does not run.
func TestAJobIsCancelledWhileItIsClaimed(t *testing.T) {
	d := idle(t, t.TempDir(), func(o *Options) {
		o.Engine = func(context.Context, plasm.Job, plasm.Spec, plasm.IO) (plasm.Outcome, error) {
			t.Error("it ran")
			return plasm.Outcome{}, errors.New("it ran")
		}
	})
	id := accepted(t, d, request("wait"))
	synctest.Test(t, func(t *testing.T) {
		j, err := d.Queue.Claim(t.Context(), nil)
		check(t, err)
		go d.Cancel(t.Context(), id)
		synctest.Wait()
		d.work(t.Context(), j)
	})
	if j, _ := d.Queue.Get(id); j.Reason != api.ReasonCancelled {
		t.Errorf("the job is %+v", j)
	}
	if len(d.early) != 0 {
		t.Errorf("remembered for ever: %v", d.early)
	}
}

// A daemon that is stopped while the disk is full ends, although an outcome cannot be stored; the next one stores it.
func TestADaemonStopsOnAFullDisk(t *testing.T) {
	if !netns.Inside(t) { // for its mounts
		return
	}
	disk := t.TempDir()
	check(t, unix.Mount("small-disk", disk, "tmpfs", 0, "size=4m"))
	t.Cleanup(func() { _ = unix.Unmount(disk, unix.MNT_DETACH) })
	dir, ballast := filepath.Join(disk, "state"), filepath.Join(disk, "ballast")
	w := start(t, dir, nil)
	ids := []string{accepted(t, w.d, request("wait")), accepted(t, w.d, request("wait"))}
	for _, id := range ids {
		for get(w.d.Local(), api.Jobs+"/"+id).job.State != api.StateRunning {
			time.Sleep(time.Millisecond)
		}
	}
	check(t, os.Remove(filepath.Join(dir, "reserve")))
	f, err := os.Create(ballast)
	check(t, err)
	for err == nil {
		_, err = f.Write(make([]byte, 1024))
	}
	f.Close()
	ended := make(chan struct{})
	go func() { w.stop(); close(ended) }()
	select {
	case <-ended:
	case <-time.After(20 * time.Second):
		t.Error("it does not end")
		check(t, os.Remove(ballast))
		<-ended
		return
	}
	check(t, os.Remove(ballast))
	w = start(t, dir, nil)
	for _, id := range ids {
		if j := w.done(id); j.Reason != api.ReasonInterrupted {
			t.Errorf("the job ended as %+v", j)
		}
		w.receipt(id)
	}
}

// The receipt of a job that did not end by itself names the engine and the release in which it ran,
// and the input that it was given.
func TestAReceiptOfAnInterruptedJobIsTrue(t *testing.T) {
	spec := plasm.DefaultSpec()
	spec.Limits.Timeout = time.Hour // so that the compiler runs it
	spec.Grants.Stdin = true
	text, err := json.Marshal(api.Request{Name: "wait", Spec: spec})
	check(t, err)
	dir := t.TempDir()
	w := start(t, dir, func(o *Options) { o.Workers = 3 })
	spec.Limits.Timeout = plasm.DefaultLimits().Timeout // stored code decides
	either, err := json.Marshal(api.Request{Name: "wait", Spec: spec})
	check(t, err)
	cancelled, interrupted, unknown := accepted(t, w.d, string(text)), accepted(t, w.d, string(text)), accepted(t, w.d, string(either))
	for _, id := range []string{cancelled, interrupted, unknown} {
		for get(w.d.Local(), api.Jobs+"/"+id).job.State != api.StateRunning {
			time.Sleep(time.Millisecond)
		}
	}
	ask(w.d.Local(), httptest.NewRequest("POST", api.Jobs+"/"+cancelled+api.Cancel, nil))
	w.stop()
	w = start(t, dir, func(o *Options) { // in another release
		later := release
		later.Version, later.Number = "2", 8
		o.Release, o.Report = &later, strings.Repeat("ab", 32)
	})
	if run := w.receipt(unknown).Run; run.Reason != api.ReasonInterrupted || run.Engine.Name != "" || run.Engine.Version != "" || run.Started.IsZero() {
		t.Errorf("the receipt names an engine that is not known: %+v", run)
	}
	for id, reason := range map[string]string{cancelled: api.ReasonCancelled, interrupted: api.ReasonInterrupted} {
		run := w.receipt(id).Run
		if run.Reason != reason || run.Engine.Name != plasm.EngineCompiler || !run.Input.Begins([]byte("an input")) || run.Input.Length == 0 ||
			run.Release.Version != "1" || run.Release.Number != 7 || run.Report != "" {
			t.Errorf("%s: the receipt states %+v", reason, run)
		}
	}
}
