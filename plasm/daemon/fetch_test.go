package daemon

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ipfs/go-cid"

	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/internal/refusal"
	"github.com/phaseboot/phaseboot/manifest"
	"github.com/phaseboot/phaseboot/plasm"
	"github.com/phaseboot/phaseboot/plasm/api"
)

func cidOf(module string) string { return cas.Sum(cid.Raw, []byte(module)).String() }

// byCID returns a request for a module by its CID, of at most 100 bytes.
func byCID(module string) string {
	spec := plasm.DefaultSpec()
	spec.Limits.Module = 100
	text, _ := json.Marshal(api.Request{Name: "job", ModuleCID: cidOf(module), Spec: spec})
	return string(text)
}

// sources are peers that send modules when they are told to.
type sources struct {
	asked chan int64 // receives the limit of each request
	send  chan any   // bytes or an error
}

func newSources() sources { return sources{make(chan int64, 10), make(chan any, 10)} }

func (s sources) fetch(ctx context.Context, _ cid.Cid, limit int64) ([]byte, error) {
	s.asked <- limit
	select {
	case v := <-s.send:
		if err, ok := v.(error); ok {
			return nil, err
		}
		return []byte(v.(string)), nil
	case <-ctx.Done():
		return nil, fmt.Errorf("%w: %w", cas.ErrUnreachable, ctx.Err())
	}
}

func (w *world) submit(t *testing.T, parts ...string) string {
	t.Helper()
	a := ask(w.d.Local(), form(parts...))
	if a.status != http.StatusAccepted {
		t.Fatal(a.body)
	}
	return a.job.ID
}

func (w *world) job(id string) api.Job { return get(w.d.Local(), api.Jobs+"/"+id).job }

func TestAModuleIsFetchedByItsCID(t *testing.T) {
	s := newSources()
	w := start(t, t.TempDir(), func(o *Options) { o.Fetch = s.fetch })
	id := w.submit(t, "job", byCID("m"))
	if limit := <-s.asked; limit != 100 {
		t.Errorf("asked for %d bytes", limit)
	}
	if j := w.job(id); j.State != api.StateFetching {
		t.Errorf("state %s", j.State)
	}
	time.Sleep(20 * time.Millisecond) // that the receipt shows
	s.send <- "m"
	if j := w.done(id); j.Reason != plasm.ReasonExit || j.Module != cidOf("m") {
		t.Errorf("ended as %+v", j)
	}
	if r := w.receipt(id).Run; r.Module.CID != cidOf("m") || r.Module.SHA256 != sumOf("m").SHA256 || r.Durations.Fetch < 20 {
		t.Errorf("receipt %+v", r)
	}
}

// A module that cannot be had is an outcome with the reason, the CID and what the sources said, and has a receipt.
func TestAModuleThatCannotBeFetchedEndsItsJob(t *testing.T) {
	s := newSources()
	w := start(t, t.TempDir(), func(o *Options) { o.Fetch = s.fetch })
	for name, c := range map[string]struct {
		send   any
		reason string
		words  string
	}{
		"unreachable": {fmt.Errorf("%w for 2m0s: mDNS: no peers yet", cas.ErrUnreachable), api.ReasonUnreachable, "unreachable for 2m0s: mDNS: no peers yet"},
		"corrupt":     {fmt.Errorf("peer x: %w", cas.ErrCorrupt), api.ReasonCorrupt, "peer x: corrupt"},
		"too large":   {refusal.New(ErrTooLarge, "101 bytes, the limit is 100"), plasm.ReasonModule, "101 bytes"},
		"a fault":     {errors.New("no sockets left"), api.ReasonNotRun, "no sockets left"},
	} {
		s.send <- c.send
		id := w.submit(t, "job", byCID("m"))
		if j := w.done(id); j.Reason != c.reason || !strings.HasPrefix(j.Detail, "module "+cidOf("m")+": ") || !strings.Contains(j.Detail, c.words) || j.ExitCode != -1 {
			t.Errorf("%s: ended as %+v", name, j)
		}
		if r := w.receipt(id).Run; r.Reason != c.reason || r.Module.CID != cidOf("m") || !r.Started.IsZero() {
			t.Errorf("%s: receipt %+v", name, r)
		}
	}
	o := newOrder("job", "m", "")
	o.ModuleCID = cidOf("n")
	s.send <- "n"
	a := ask(w.d.Network(), form("order", sign(t, ciKey, o)))
	if j := w.done(a.job.ID); j.Reason != api.ReasonCorrupt || !strings.Contains(j.Detail, "the job names "+o.ModuleSHA256) {
		t.Errorf("another module than the order names: %+v", j)
	}
}

// Modules that do not come hold up no other job, and the end of the daemon neither. Their jobs wait for the next one.
func TestAJobThatWaitsForItsModuleHoldsUpNothing(t *testing.T) {
	s, dir := newSources(), t.TempDir()
	w := start(t, dir, func(o *Options) { o.Fetch, o.Workers, o.Grace = s.fetch, 1, time.Hour })
	var ids []string
	for range fetchers + 1 {
		ids = append(ids, w.submit(t, "job", byCID("m")))
	}
	for range fetchers {
		<-s.asked
	}
	if j := w.done(w.submit(t, "job", request("other"), "module", "o")); j.Reason != plasm.ReasonExit {
		t.Errorf("another job: %+v", j)
	}
	if a := ask(w.d.Local(), httptest.NewRequest("POST", api.Jobs+"/"+ids[0]+api.Cancel, nil)); a.job.Reason != api.ReasonCancelled {
		t.Errorf("cancelled: %s", a.body)
	}
	<-s.asked // the third one
	w.stop()
	for range ids[1:] {
		s.send <- "m"
	}
	w = start(t, dir, func(o *Options) { o.Fetch = s.fetch })
	for _, id := range ids[1:] {
		if j := w.done(id); j.Reason != plasm.ReasonExit {
			t.Errorf("after a restart: %+v", j)
		}
	}
}

// The release is asked before the network.
func TestAModuleOfTheReleaseIsNotFetched(t *testing.T) {
	dir := t.TempDir()
	rel := release
	rel.Artifacts = []manifest.Artifact{{Role: "job/m.wasm", CID: cas.Sum(cid.Raw, []byte("m")), SHA256: sumOf("m").SHA256, Length: 1}, {Role: "rootfs", CID: cas.Sum(cid.Raw, []byte("r"))}}
	w := start(t, t.TempDir(), func(o *Options) { o.Release, o.Dir = &rel, dir })
	if j := w.done(w.submit(t, "job", byCID("m"))); j.Reason != api.ReasonUnreachable || !strings.Contains(j.Detail, "job/m.wasm") {
		t.Errorf("ended as %+v", j)
	}
	for _, other := range []string{"r", "n"} {
		if a := ask(w.d.Local(), form("job", byCID(other))); a.status != http.StatusNotFound || !strings.Contains(a.error.Text, "send the module") {
			t.Errorf("%d %s", a.status, a.body)
		}
	}
}

// An order says how long its job may wait to start, also for its module.
func TestAJobDoesNotStartAfterItsOrderHasExpired(t *testing.T) {
	var ahead atomic.Int64 // of the daemon's clock
	s := newSources()
	w := start(t, t.TempDir(), func(o *Options) {
		o.Workers, o.Fetch = 1, func(ctx context.Context, c cid.Cid, limit int64) ([]byte, error) {
			data, err := s.fetch(ctx, c, limit)
			if !errors.Is(ctx.Err(), context.DeadlineExceeded) { // bootclient.File says then what it asked
				t.Errorf("the fetch ended by %v", ctx.Err())
			}
			return data, err
		}
		o.Now = func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }
	})
	o := newOrder("job", "m", "")
	o.ModuleCID, o.Expires = cidOf("m"), time.Now().UTC().Truncate(time.Second).Add(2*time.Second)
	slow := ask(w.d.Network(), form("order", sign(t, ciKey, o))).job.ID
	<-s.asked
	busy := w.submit(t, "job", request("wait"), "module", "w")
	late := ask(w.d.Network(), form("order", sign(t, ciKey, newOrder("late", "m", "")), "module", "m")).job.ID
	if j := w.done(slow); j.Reason != api.ReasonUnreachable {
		t.Errorf("the module did not come before the order expired: %+v", j)
	}
	ahead.Store(int64(2 * time.Hour))
	w.d.Cancel(t.Context(), busy)
	if j := w.done(late); j.Reason != api.ReasonExpired || !strings.Contains(j.Detail, "before its order expired at") || strings.Contains(j.Detail, "\n") {
		t.Errorf("no worker before the order expired: %+v", j)
	}
}
