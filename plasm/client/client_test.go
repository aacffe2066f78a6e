package client

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ed25519"
	"errors"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/sigstore/sigstore/pkg/signature"

	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/manifest"
	"github.com/phaseboot/phaseboot/plasm"
	"github.com/phaseboot/phaseboot/plasm/api"
	"github.com/phaseboot/phaseboot/plasm/receipt"
)

func signer(t *testing.T, key ed25519.PrivateKey) signature.Signer {
	t.Helper()
	s, err := signature.LoadSigner(key, crypto.Hash(0))
	check(t, err)
	return s
}

// task returns a job with a module, arguments and an input.
func task(t *testing.T) Task {
	spec := plasm.DefaultSpec()
	spec.Args, spec.Grants.Stdin = []string{"one", "two"}, true
	return Task{Name: "job.wasm", Module: module(t), Spec: spec, Input: []byte("input"), Signer: signer(t, keyOf('s')), Lifetime: time.Hour, Patience: 3 * time.Second}
}

func TestATaskHasAVerifiedReceipt(t *testing.T) {
	for name, local := range map[string]bool{"order": false, "request": true} {
		t.Run(name, func(t *testing.T) {
			f := newFake()
			m, work := machine(t, f), task(t)
			if local {
				work.Signer = nil
			}
			job, err := work.Submit(t.Context(), m)
			check(t, err)
			var stdout, stderr bytes.Buffer
			got, err := work.Finish(t.Context(), m, job.ID, &stdout, &stderr)
			check(t, err)
			if stdout.String() != "one two" || stderr.String() != "done" {
				t.Errorf("output %q and %q", &stdout, &stderr)
			}
			if s, err := receipt.Parse(got.Receipt); err != nil || s.Verify(f.key.Public().(ed25519.PublicKey)) != nil || s.Run.ID != job.ID {
				t.Errorf("receipt %s: %v", got.Receipt, err)
			}
			want := map[string][]byte{api.PartModule: []byte("module"), api.PartInput: []byte("input")}
			sent := f.files[job.ID]
			delete(sent, api.PartOrder)
			delete(sent, api.PartJob)
			if diff := cmp.Diff(want, sent); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestAReceiptThatSaysSomethingElseIsRefused(t *testing.T) {
	for name, c := range map[string]struct {
		forge func(*receipt.Receipt)
		by    byte
		says  string
	}{
		"another key":       {nil, 'x', "signed by machine"},
		"another job":       {func(r *receipt.Receipt) { r.Run.ID = strings.Repeat("f", 64) }, 'm', "another job"},
		"another module":    {func(r *receipt.Receipt) { r.Run.Module.SHA256 = sum(nil) }, 'm', "another module"},
		"another input":     {func(r *receipt.Receipt) { r.Run.Input.Length-- }, 'm', "another input"},
		"other arguments":   {func(r *receipt.Receipt) { r.Run.Spec.Args = []string{"one"} }, 'm', "other arguments"},
		"another variable":  {func(r *receipt.Receipt) { r.Run.Spec.Env = map[string]string{"A": "b"} }, 'm', "other arguments"},
		"more grants":       {func(r *receipt.Receipt) { r.Run.Spec.Grants.Clock = true }, 'm', "other grants"},
		"another exit code": {func(r *receipt.Receipt) { r.Run.ExitCode = 1 }, 'm', "exit code 1"},
		"another output":    {func(r *receipt.Receipt) { r.Subject[0].Digest.SHA256 = sum(nil) }, 'm', "another stdout"},
		"another length":    {func(r *receipt.Receipt) { r.Subject[1].Annotations.Length++ }, 'm', "another stderr"},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFake()
			f.forge = func(r *receipt.Receipt) ed25519.PrivateKey {
				if c.forge != nil {
					c.forge(r)
				}
				return keyOf(c.by)
			}
			m, work := machine(t, f), task(t)
			job, err := work.Submit(t.Context(), m)
			check(t, err)
			got, err := work.Finish(t.Context(), m, job.ID, io.Discard, io.Discard)
			if !errors.Is(err, manifest.ErrUntrusted) || !strings.Contains(err.Error(), c.says) {
				t.Errorf("got %v, want untrusted: %s", err, c.says)
			}
			if got.Receipt != nil || got.Job.ID != job.ID {
				t.Errorf("got receipt %s of job %q", got.Receipt, got.Job.ID)
			}
		})
	}
}

func TestEachByteOfAReceiptIsSigned(t *testing.T) {
	f := newFake()
	m, work := machine(t, f), task(t)
	job, err := work.Submit(t.Context(), m)
	check(t, err)
	good, err := m.VerifiedReceipt(t.Context(), job)
	check(t, err)
	for i := range good {
		bad := bytes.Clone(good)
		bad[i] ^= 1
		if _, err := m.verify(bad, job); err == nil {
			t.Fatalf("accepted with byte %d changed: %s", i, bad)
		}
	}
}

// answer answers requests whose path has a suffix.
func answer(suffix string, with func(http.ResponseWriter)) func(http.ResponseWriter, *http.Request) bool {
	return func(w http.ResponseWriter, r *http.Request) bool {
		if !strings.HasSuffix(r.URL.Path, suffix) {
			return false
		}
		with(w)
		return true
	}
}

func TestARefusalKeepsItsWordsAndItsExitCode(t *testing.T) {
	for code, want := range map[int]error{2: fs.ErrInvalid, 3: manifest.ErrUntrusted, 4: fs.ErrNotExist, 5: cas.ErrCorrupt, 1: nil, 99: nil} {
		c := listen(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			send(w, 400, api.Error{Text: "order: \x1b[31mred\n" + strings.Repeat("x", 5000), ExitCode: code})
		}))
		_, err := c.List(t.Context())
		if err == nil || want != nil && !errors.Is(err, want) || !strings.HasPrefix(err.Error(), "order: ?[31mred x") || len(err.Error()) > maxWords+10 {
			t.Errorf("code %d: %v", code, err)
		}
		for _, class := range []error{fs.ErrInvalid, manifest.ErrUntrusted, fs.ErrNotExist, cas.ErrCorrupt} {
			if class != want && errors.Is(err, class) {
				t.Errorf("code %d: is %v", code, class)
			}
		}
	}
}

func TestAnswersThatNoDaemonGivesAreRefused(t *testing.T) {
	id := strings.Repeat("0a", 32)
	for name, c := range map[string]struct {
		answer string
		status int
		ask    func(*Client) error
	}{
		"text":              {"hello", 200, jobOf(id)},
		"nothing":           {"", 200, jobOf(id)},
		"another ID":        {`{"id":"` + strings.Repeat("0b", 32) + `","state":"done"}`, 200, jobOf(id)},
		"a state":           {`{"id":"` + id + `","state":"dreaming"}`, 200, jobOf(id)},
		"too much":          {`"` + strings.Repeat("x", maxAnswer) + `"`, 200, jobOf(id)},
		"a web page":        {"<html>", 500, jobOf(id)},
		"ID of a list":      {`{"jobs":[{"id":"../../etc","state":"done"}]}`, 200, func(c *Client) error { _, err := c.List(context.Background()); return err }},
		"key of a machine":  {`{"machine":"no"}`, 200, func(c *Client) error { _, err := c.Status(context.Background()); return err }},
		"line of output":    {"{}\n", 200, outputOf(id)},
		"stream of output":  {`{"stream":"stdin","data":"eA=="}`, 200, outputOf(id)},
		"long output":       {`{"stream":"stdout","data":"` + strings.Repeat("eA==", maxLine/4+1), 200, outputOf(id)},
		"more than allowed": {strings.Repeat(`{"stream":"stdout","data":"eHh4"}`+"\n", 4), 200, outputOf(id)},
	} {
		t.Run(name, func(t *testing.T) {
			client := listen(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				w.WriteHeader(c.status)
				io.WriteString(w, c.answer)
			}))
			if err := c.ask(client); !errors.Is(err, cas.ErrCorrupt) {
				t.Errorf("got %v, want corrupt", err)
			}
		})
	}
}

func jobOf(id string) func(*Client) error {
	return func(c *Client) error { _, err := c.Job(context.Background(), id); return err }
}

func outputOf(id string) func(*Client) error {
	return func(c *Client) error {
		_, err := c.Follow(context.Background(), id, 10, time.Second, io.Discard, io.Discard)
		return err
	}
}

// The daemon ends in the middle of an answer, again and again.
func TestOutputGoesOnWhereTheConnectionWasLost(t *testing.T) {
	f := newFake()
	m, work := machine(t, f), task(t)
	job, err := work.Submit(t.Context(), m)
	check(t, err)
	whole := []string{"one", " ", "two"}
	sent := 0
	f.before = func(w http.ResponseWriter, r *http.Request) bool {
		if !strings.HasSuffix(r.URL.Path, api.Output) || sent == len(whole) {
			return false
		}
		sent++
		for _, part := range whole[:sent] {
			send(w, 0, api.Line{Stream: api.Stdout, Data: []byte(part)})
		}
		w.(http.Flusher).Flush()
		panic(http.ErrAbortHandler)
	}
	var stdout, stderr bytes.Buffer
	_, err = work.Finish(t.Context(), m, job.ID, &stdout, &stderr)
	check(t, err)
	if stdout.String() != "one two" || stderr.String() != "done" || sent != len(whole) {
		t.Errorf("output %q and %q after %d losses", &stdout, &stderr, sent)
	}
}

// The daemon accepts a job and ends before it answers.
func TestALostAnswerIsNoSecondJob(t *testing.T) {
	f := newFake()
	m, work := machine(t, f), task(t)
	posts := 0
	f.before = func(w http.ResponseWriter, r *http.Request) bool {
		if r.Method != http.MethodPost {
			return false
		}
		if posts++; posts == 2 {
			f.mu.Lock()
			f.accept(discard{}, r)
			f.mu.Unlock()
		}
		panic(http.ErrAbortHandler)
	}
	job, err := work.Submit(t.Context(), m)
	check(t, err)
	if len(f.jobs) != 1 || job.ID == "" || posts != 2 {
		t.Errorf("%d jobs after %d requests, and got %+v", len(f.jobs), posts, job)
	}
}

// discard is the answer of a daemon that ended.
type discard struct{ http.ResponseWriter }

func (discard) WriteHeader(int)             {}
func (discard) Write(p []byte) (int, error) { return len(p), nil }

// A full queue gets room: a submission is sent again, with a word about it, until the patience ends.
func TestABusyDaemonIsAskedAgainToAcceptAJob(t *testing.T) {
	for name, signed := range map[string]bool{"order": true, "request": false} {
		t.Run(name, func(t *testing.T) {
			f := newFake()
			m, work := machine(t, f), task(t)
			if !signed {
				work.Signer = nil
			}
			posts, words, sent := 0, []string{}, ""
			work.Busy = func(_ Machine, err error) { words = append(words, err.Error()) }
			work.Sends = func(id string) { sent = id }
			f.before = func(w http.ResponseWriter, r *http.Request) bool {
				if r.Method != http.MethodPost {
					return false
				}
				if posts++; posts < 3 {
					send(w, []int{http.StatusServiceUnavailable, http.StatusTooManyRequests}[posts-1], api.Error{Text: "full", ExitCode: 1})
				}
				return posts < 3
			}
			job, err := work.Submit(t.Context(), m)
			if err != nil || posts != 3 || len(f.jobs) != 1 || len(words) != 1 || words[0] != "full" {
				t.Errorf("after %d requests, %d jobs and the words %q: %v", posts, len(f.jobs), words, err)
			}
			if signed != (sent != "") || signed && sent != job.ID {
				t.Errorf("job %q was sent as %q", job.ID, sent)
			}
		})
	}
}

// A daemon that serves too many followers is asked again; a queue that stays full is an error of the submission.
func TestABusyDaemonIsAskedAgainForOutput(t *testing.T) {
	f := newFake()
	m, work := machine(t, f), task(t)
	job, err := work.Submit(t.Context(), m)
	check(t, err)
	asked := 0
	f.before = func(w http.ResponseWriter, r *http.Request) bool {
		if r.Method == http.MethodPost || strings.HasSuffix(r.URL.Path, api.Output) {
			asked++
			if r.Method == http.MethodPost || asked < 3 {
				send(w, http.StatusServiceUnavailable, api.Error{Text: "full", ExitCode: 1})
				return true
			}
		}
		return false
	}
	if _, err := work.Finish(t.Context(), m, job.ID, io.Discard, io.Discard); err != nil || asked != 3 {
		t.Errorf("after %d requests: %v", asked, err)
	}
	if _, err := work.Submit(t.Context(), m); !errors.Is(err, ErrBusy) || err.Error() != "full" {
		t.Errorf("submit: %v", err)
	}
}

func TestAMachineThatStaysAwayIsUnreachable(t *testing.T) {
	f := newFake()
	m, work := machine(t, f), task(t)
	work.Patience = 10 * time.Millisecond
	job, err := work.Submit(t.Context(), m)
	check(t, err)
	f.before = func(http.ResponseWriter, *http.Request) bool { panic(http.ErrAbortHandler) }
	if _, err := work.Finish(t.Context(), m, job.ID, io.Discard, io.Discard); !errors.Is(err, cas.ErrUnreachable) {
		t.Errorf("finish: %v", err)
	}
	if _, err := work.Submit(t.Context(), m); !errors.Is(err, cas.ErrUnreachable) {
		t.Errorf("submit: %v", err)
	}
}

func TestAWaitCanBeInterrupted(t *testing.T) {
	f := newFake()
	m, work := machine(t, f), task(t)
	job, err := work.Submit(t.Context(), m)
	check(t, err)
	waits := make(chan struct{})
	f.before = answer(api.Output, func(w http.ResponseWriter) {
		w.(http.Flusher).Flush()
		close(waits)
		<-t.Context().Done()
	})
	ctx, cancel := context.WithCancel(t.Context())
	go func() { <-waits; cancel() }()
	if _, err := work.Finish(ctx, m, job.ID, io.Discard, io.Discard); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

// A reader that is gone ends the wait at once.
func TestOutputThatCannotBeWrittenIsNotAskedForAgain(t *testing.T) {
	f := newFake()
	m, work := machine(t, f), task(t)
	job, err := work.Submit(t.Context(), m)
	check(t, err)
	r, w, err := os.Pipe()
	check(t, err)
	r.Close()
	defer w.Close()
	if _, err := work.Finish(t.Context(), m, job.ID, w, io.Discard); !errors.Is(err, syscall.EPIPE) {
		t.Errorf("got %v", err)
	}
}

func TestASocketWithoutADaemonIsNamed(t *testing.T) {
	dir := t.TempDir()
	dead := filepath.Join(dir, "dead")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: dead})
	check(t, err)
	l.SetUnlinkOnClose(false)
	l.Close()
	plain := filepath.Join(dir, "plain")
	check(t, os.WriteFile(plain, nil, 0o600))
	for path, want := range map[string]error{
		filepath.Join(dir, "none"): fs.ErrNotExist,
		filepath.Join(dir, "gone"): cas.ErrUnreachable, // and asked again while a job is followed
		dead:                       cas.ErrUnreachable,
		plain:                      fs.ErrInvalid,
		dir:                        fs.ErrInvalid,
		filepath.Join(dir, strings.Repeat("long/", 100)): fs.ErrInvalid,
	} {
		if m := Local(t.Context(), path); !errors.Is(m.Err, want) || !strings.Contains(m.Err.Error(), ";") {
			t.Errorf("%s: %v, want %v", path, m.Err, want)
		}
	}
}

func TestAClockThatIsFarOffIsReported(t *testing.T) {
	now := time.Now()
	for off, far := range map[time.Duration]bool{0: false, time.Minute: false, -time.Hour: true, time.Hour: true} {
		m := Machine{Status: api.Status{Now: now.Add(off)}}
		if err := CheckClock(m, now); (err != nil) != far {
			t.Errorf("%s off: %v", off, err)
		}
	}
}
