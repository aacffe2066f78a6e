package daemon

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime/multipart"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/sigstore/sigstore/pkg/signature"

	"github.com/phaseboot/phaseboot/manifest"
	"github.com/phaseboot/phaseboot/plasm"
	"github.com/phaseboot/phaseboot/plasm/api"
	"github.com/phaseboot/phaseboot/plasm/order"
	"github.com/phaseboot/phaseboot/plasm/queue"
	"github.com/phaseboot/phaseboot/plasm/receipt"
)

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func key(n byte) ed25519.PrivateKey { return ed25519.NewKeyFromSeed(bytes.Repeat([]byte{n}, 32)) }

var machineKey, ciKey, otherKey = key(1), key(2), key(3)

// release names one submitter, ci.
var release = manifest.Release{
	Version: "1", Channel: "stable", Arch: "x86_64", Number: 7, Repository: strings.Repeat("ab", 16),
	Submitters: []manifest.Submitter{{
		Name: "ci", Key: ciKey.Public().(ed25519.PublicKey), Jobs: 100,
		Limits: manifest.SubmitterLimits{Memory: 1 << 30, Timeout: 60_000, CPU: 60_000, Output: 1 << 20},
		Grants: manifest.SubmitterGrants{Stdin: true},
	}},
}

// engine is a job that writes its name, and its input to stderr; one named "wait" runs until it is ended.
func engine(ctx context.Context, job plasm.Job, spec plasm.Spec, std plasm.IO) (plasm.Outcome, error) {
	fmt.Fprint(std.Stdout, "out of ", job.Name)
	if std.Stdin != nil {
		_, _ = io.Copy(std.Stderr, std.Stdin)
	}
	if job.Name == "wait" {
		<-ctx.Done()
		return plasm.Outcome{
			Engine: spec.RunsOn(), CPU: 7 * time.Millisecond, MemoryPeak: 1 << 16,
			Compile: 5 * time.Millisecond, Run: 3 * time.Millisecond,
		}, ctx.Err()
	}
	return plasm.Outcome{Started: time.Now(), Engine: plasm.EngineInterpreter, EngineVersion: "1", Reason: plasm.ReasonExit, Stdout: sumOf("out of " + job.Name), Stderr: sumOf("")}, nil
}

func sumOf(s string) plasm.Output {
	p := newPart(nil, 0, nil)
	p.hash.Write([]byte(s))
	p.length = int64(len(s))
	return p.output()
}

// exitCode stands for cli.Code, which this package may not import.
func exitCode(err error) int {
	if errors.Is(err, manifest.ErrUntrusted) {
		return 3
	}
	return 1
}

// A world is a daemon whose handlers are called without a network.
type world struct {
	t    testing.TB
	dir  string
	d    *Daemon
	stop func()
}

// start starts a daemon on a folder.
func start(t testing.TB, dir string, change func(*Options)) *world {
	t.Helper()
	q, err := queue.Open(dir, queue.Options{})
	check(t, err)
	o := Options{Queue: q, Key: machineKey, Release: &release, Workers: 2, Engine: engine, ExitCode: exitCode, Version: "test"}
	if change != nil {
		change(&o)
	}
	d, err := New(o)
	check(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- d.Run(ctx) }()
	w := &world{t: t, dir: dir, d: d}
	stopped := false
	w.stop = func() {
		if !stopped {
			stopped = true
			cancel()
			<-ended
			q.Close()
		}
	}
	t.Cleanup(w.stop)
	return w
}

// An answered request.
type answered struct {
	status int
	body   string
	error  api.Error
	job    api.Job
}

func ask(h http.Handler, r *http.Request) (a answered) {
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	a.status, a.body = w.Code, w.Body.String()
	_ = json.Unmarshal(w.Body.Bytes(), &a.error)
	_ = json.Unmarshal(w.Body.Bytes(), &a.job)
	return a
}

func get(h http.Handler, path string) answered { return ask(h, httptest.NewRequest("GET", path, nil)) }

// form returns a submission of parts: names and bytes in turn.
func form(parts ...string) *http.Request {
	var body bytes.Buffer
	w := multipart.NewWriter(&body)
	for i := 0; i < len(parts); i += 2 {
		p, _ := w.CreateFormFile(parts[i], parts[i])
		_, _ = io.WriteString(p, parts[i+1])
	}
	w.Close()
	r := httptest.NewRequest("POST", api.Jobs, &body)
	r.Header.Set("Content-Type", w.FormDataContentType())
	return r
}

func request(name string) string {
	spec := plasm.DefaultSpec()
	spec.Grants.Stdin = true
	text, _ := json.Marshal(api.Request{Name: name, Spec: spec})
	return string(text)
}

// newOrder returns an order for a module with an input.
func newOrder(name, module, input string) order.Order {
	spec := plasm.DefaultSpec()
	o := order.New(name, spec, time.Now(), time.Hour)
	o.ModuleSHA256 = sumOf(module).SHA256
	if input != "" {
		o.Spec.Grants.Stdin = true
		o.InputSHA256 = sumOf(input).SHA256
	}
	return o
}

func sign(t testing.TB, by ed25519.PrivateKey, o order.Order) string {
	t.Helper()
	signer, err := signature.LoadSigner(by, crypto.Hash(0))
	check(t, err)
	text, err := order.Sign(context.Background(), signer, o)
	check(t, err)
	return string(text)
}

// done waits for the outcome of a job.
func (w *world) done(id string) api.Job {
	w.t.Helper()
	a := get(w.d.Local(), api.Jobs+"/"+id+api.Output+"?follow=1")
	if a.status != 200 {
		w.t.Fatalf("output: %d %s", a.status, a.body)
	}
	return get(w.d.Local(), api.Jobs+"/"+id).job
}

// receipt returns the receipt of a job, and checks it.
func (w *world) receipt(id string) receipt.Signed {
	w.t.Helper()
	a := get(w.d.Local(), api.Jobs+"/"+id+api.Receipt)
	s, err := receipt.Parse([]byte(a.body))
	check(w.t, err)
	check(w.t, s.Verify(machineKey.Public().(ed25519.PublicKey)))
	return s
}

func TestAJobOfTheMachineIsRunWithAReceipt(t *testing.T) {
	w := start(t, t.TempDir(), nil)
	a := ask(w.d.Local(), form("job", request("hello"), "module", "a module", "input", "an input"))
	if a.status != http.StatusAccepted || a.job.State != api.StateQueued {
		t.Fatalf("%d %s", a.status, a.body)
	}
	j := w.done(a.job.ID)
	if j.State != api.StateDone || j.Reason != plasm.ReasonExit || j.ExitCode != 0 {
		t.Errorf("ended as %+v", j)
	}
	lines := get(w.d.Local(), api.Jobs+"/"+j.ID+api.Output).body
	for _, want := range []string{`"stdout","data":"` + base64.StdEncoding.EncodeToString([]byte("out of hello")), `"stderr","data":"` + base64.StdEncoding.EncodeToString([]byte("an input"))} {
		if !strings.Contains(lines, want) {
			t.Errorf("no %s in %s", want, lines)
		}
	}
	r := w.receipt(j.ID).Run
	if r.ID != j.ID || r.Module.SHA256 != sumOf("a module").SHA256 || r.Input.SHA256 != sumOf("an input").SHA256 || r.Release.Version != "1" || r.Submitter != "" {
		t.Errorf("receipt %+v", r)
	}
}

func TestAnOrderOfASubmitterIsRun(t *testing.T) {
	w := start(t, t.TempDir(), nil)
	o := newOrder("ordered", "a module", "an input")
	a := ask(w.d.Network(), form("order", sign(t, ciKey, o), "module", "a module", "input", "an input"))
	if a.status != http.StatusAccepted || a.job.Submitter != "ci" {
		t.Fatalf("%d %s", a.status, a.body)
	}
	w.done(a.job.ID)
	if r := w.receipt(a.job.ID).Run; r.Submitter != hex.EncodeToString(release.Submitters[0].Key) || r.Reason != plasm.ReasonExit {
		t.Errorf("receipt %+v", r)
	}
	for _, path := range []string{"", api.Output, api.Receipt} { // whoever knows the ID
		if a := get(w.d.Network(), api.Jobs+"/"+a.job.ID+path); a.status != 200 {
			t.Errorf("%q: %d %s", path, a.status, a.body)
		}
	}
	if a := get(w.d.Network(), api.Jobs); a.status != http.StatusForbidden {
		t.Errorf("a list for everyone: %d %s", a.status, a.body)
	}
}

func TestWhatIsRefusedSaysWhyInOneLine(t *testing.T) {
	w := start(t, t.TempDir(), nil)
	orderOf := func(change func(*order.Order)) string {
		o := newOrder("job", "m", "")
		change(&o)
		return sign(t, ciKey, o)
	}
	twice := orderOf(func(*order.Order) {})
	if a := ask(w.d.Network(), form("order", twice, "module", "m")); a.status != http.StatusAccepted {
		t.Fatal(a.body)
	}
	for name, c := range map[string]struct {
		handler http.Handler
		request *http.Request
		status  int
		code    int
		words   string
	}{
		"unsigned":       {w.d.Network(), form("job", request("x"), "module", "m"), 403, 3, "not signed"},
		"of another key": {w.d.Network(), form("order", sign(t, otherKey, newOrder("x", "m", "")), "module", "m"), 403, 3, "none of the submitters"},
		"replayed":       {w.d.Network(), form("order", twice, "module", "m"), 409, 3, "accepted before"},
		"expired": {w.d.Network(), form("order", orderOf(func(o *order.Order) {
			o.NotBefore, o.Expires = o.NotBefore.Add(-time.Hour), o.Expires.Add(-2*time.Hour)
		}), "module", "m"), 403, 3, "expired at"},
		"not yet valid":      {w.d.Network(), form("order", orderOf(func(o *order.Order) { o.NotBefore = o.NotBefore.Add(30 * time.Minute) }), "module", "m"), 403, 3, "not valid before"},
		"for another":        {w.d.Network(), form("order", orderOf(func(o *order.Order) { o.Machine = strings.Repeat("ab", 32) }), "module", "m"), 403, 3, "for machine"},
		"before the store":   {w.d.Network(), form("order", orderOf(func(o *order.Order) { o.NotBefore = o.NotBefore.Add(-time.Hour) }), "module", "m"), 409, 3, "before this machine began"},
		"with a grant":       {w.d.Network(), form("order", orderOf(func(o *order.Order) { o.Spec.Grants.Clock = true }), "module", "m"), 403, 3, "asks for clock"},
		"above a limit":      {w.d.Network(), form("order", orderOf(func(o *order.Order) { o.Spec.Limits.Output = 2 << 20 }), "module", "m"), 403, 3, "output"},
		"another module":     {w.d.Network(), form("order", orderOf(func(*order.Order) {}), "module", "n"), 422, 1, "the order names"},
		"without the module": {w.d.Network(), form("order", orderOf(func(*order.Order) {})), 400, 1, "send the module"},
		"input not ordered":  {w.d.Network(), form("order", orderOf(func(*order.Order) {}), "module", "m", "input", "i"), 400, 1, "does not ask for stdin"},
		"module first":       {w.d.Local(), form("module", "m", "job", request("x")), 400, 1, "begin with"},
		"two modules":        {w.d.Local(), form("job", request("x"), "module", "m", "module", "m"), 400, 1, "twice"},
		"another part":       {w.d.Local(), form("job", request("x"), "extra", "m"), 400, 1, "part \"extra\""},
		"not a form":         {w.d.Local(), httptest.NewRequest("POST", api.Jobs, strings.NewReader("x")), 400, 1, "multipart/form-data"},
		"unknown field":      {w.d.Local(), form("job", `{"nam":"x"}`, "module", "m"), 400, 1, "unknown field"},
		"unknown job":        {w.d.Local(), httptest.NewRequest("GET", api.Jobs+"/00", nil), 404, 1, "unknown to this machine"},
		"another path":       {w.d.Local(), httptest.NewRequest("GET", "/plasm/v2", nil), 404, 1, "no such request"},
		"figures":            {w.d.Network(), httptest.NewRequest("GET", api.MetricsPath, nil), 404, 1, "no such request"},
	} {
		a := ask(c.handler, c.request)
		if a.status != c.status || a.error.ExitCode != c.code || !strings.Contains(a.error.Text, c.words) || strings.Contains(a.error.Text, "\n") {
			t.Errorf("%s: %d, exit code %d, %q; want %d, %d, %q", name, a.status, a.error.ExitCode, a.error.Text, c.status, c.code, c.words)
		}
		w.d.faults = newFaults()
	}
	if n := w.d.Queue.Figures(); n.Waiting+n.Running+n.Claimed+n.Done != 1 {
		t.Errorf("jobs: %+v", n)
	}
}

func TestJobsAreCancelledAndInterrupted(t *testing.T) {
	dir := t.TempDir()
	w := start(t, dir, func(o *Options) { o.Workers = 1 })
	submit := func() string {
		t.Helper()
		a := ask(w.d.Local(), form("job", request("wait"), "module", "m"))
		if a.status != http.StatusAccepted {
			t.Fatal(a.body)
		}
		return a.job.ID
	}
	running, waiting := submit(), submit()
	for get(w.d.Local(), api.Jobs+"/"+running).job.State != api.StateRunning {
		time.Sleep(time.Millisecond)
	}
	if a := get(w.d.Local(), api.Jobs+"/"+running+api.Receipt); a.status != http.StatusConflict {
		t.Errorf("a receipt before the end: %d %s", a.status, a.body)
	}
	for _, id := range []string{waiting, running, running} { // the third changes nothing
		a := ask(w.d.Local(), httptest.NewRequest("POST", api.Jobs+"/"+id+api.Cancel, nil))
		if a.status != 200 || a.job.Reason != api.ReasonCancelled {
			t.Errorf("cancel: %d %s", a.status, a.body)
		}
		r := w.receipt(id).Run
		if r.Reason != api.ReasonCancelled {
			t.Errorf("receipt %+v", r)
		}
		if ran := id == running; ran != (r.CPU == 7 && r.MemoryPeak == 1<<16 && r.Durations.Compile == 5 && r.Durations.Run == 3) {
			t.Errorf("the receipt has not what was measured: %+v", r)
		}
	}
	stopped := submit()
	for get(w.d.Local(), api.Jobs+"/"+stopped).job.State != api.StateRunning {
		time.Sleep(time.Millisecond)
	}
	late := submit()
	w.stop()
	w = start(t, dir, func(o *Options) {
		o.Engine = func(context.Context, plasm.Job, plasm.Spec, plasm.IO) (plasm.Outcome, error) {
			return plasm.Outcome{}, errors.New("no process")
		}
	})
	if j := w.done(stopped); j.Reason != api.ReasonInterrupted {
		t.Errorf("the job that ran: %+v", j)
	}
	if r := w.receipt(stopped); r.Run.Reason != api.ReasonInterrupted || r.Output(receipt.Stdout) != sumOf("out of wait") {
		t.Errorf("receipt %+v", r.Receipt)
	}
	if j := w.done(late); j.Reason != api.ReasonNotRun || j.Detail != "no process" {
		t.Errorf("the job that waited: %+v", j)
	}
}

// The time for the body of a request does not end an output that is followed for longer.
func TestAnOutputIsFollowedForLongerThanABodyMayTake(t *testing.T) {
	w := start(t, t.TempDir(), nil)
	w.d.bodyTime = 50 * time.Millisecond
	server := httptest.NewServer(w.d.Local())
	t.Cleanup(server.Close)
	id := ask(w.d.Local(), form("job", request("wait"), "module", "m")).job.ID
	resp, err := http.Get(server.URL + api.Jobs + "/" + id + api.Output + "?follow=1")
	check(t, err)
	defer resp.Body.Close()
	time.AfterFunc(500*time.Millisecond, func() { w.d.Cancel(context.Background(), id) })
	if text, err := io.ReadAll(resp.Body); err != nil || !strings.Contains(string(text), "stdout") {
		t.Errorf("%s: %v", text, err)
	}
}

// FuzzHandler sends bytes as a submission, and as the path of a request. No answer is a success, because
// nothing is signed, and none is an error of the server.
func FuzzHandler(f *testing.F) {
	w := start(f, f.TempDir(), nil)
	network := w.d.Network()
	f.Add("x", []byte("--x\r\nContent-Disposition: form-data; name=\"order\"\r\n\r\n{}\r\n--x--\r\n"), "/plasm/v1/jobs/00/output?follow=1")
	f.Add("x", []byte("--x\r\n\r\n--x"), "/")
	f.Fuzz(func(t *testing.T, boundary string, body []byte, path string) {
		w.d.faults = newFaults()
		r := httptest.NewRequest("POST", api.Jobs, bytes.NewReader(body))
		r.Header.Set("Content-Type", "multipart/form-data; boundary="+boundary)
		if a := ask(network, r); a.status < 400 || a.status >= 500 || a.error.Text == "" || strings.Contains(a.error.Text, "\n") {
			t.Errorf("submission: %d %s", a.status, a.body)
		}
		r, err := http.NewRequest("GET", path, nil)
		if err != nil || r.URL.Path == "" || r.URL.Path[0] != '/' {
			return
		}
		if a := ask(network, r); a.status >= 500 {
			t.Errorf("%q: %d %s", path, a.status, a.body)
		}
	})
}
