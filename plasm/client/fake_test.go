package client

import (
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/phaseboot/phaseboot/plasm"
	"github.com/phaseboot/phaseboot/plasm/api"
	"github.com/phaseboot/phaseboot/plasm/order"
	"github.com/phaseboot/phaseboot/plasm/receipt"
)

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// keyOf returns a key made of one byte.
func keyOf(seed byte) ed25519.PrivateKey {
	return ed25519.NewKeyFromSeed([]byte(strings.Repeat(string(rune(seed)), ed25519.SeedSize)))
}

func publicHex(key ed25519.PrivateKey) string {
	return hex.EncodeToString(key.Public().(ed25519.PublicKey))
}

// A fake is a daemon whose jobs are done as soon as they are accepted. Each writes its arguments to stdout, and
// "done" to stderr. before may answer a request in its place, and forge may change a receipt.
type fake struct {
	key        ed25519.PrivateKey
	repository string
	running    int
	before     func(w http.ResponseWriter, r *http.Request) (answered bool)
	forge      func(*receipt.Receipt) (by ed25519.PrivateKey)

	mu    sync.Mutex
	jobs  map[string]api.Job
	files map[string]map[string][]byte // parts of the submission of a job
}

func newFake() *fake {
	return &fake{key: keyOf('m'), jobs: map[string]api.Job{}, files: map[string]map[string][]byte{}}
}

func (f *fake) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if f.before != nil && f.before(w, r) {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	id, below, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, api.Jobs+"/"), "/")
	job, known := f.jobs[id]
	switch {
	case r.URL.Path == api.StatusPath:
		send(w, 200, api.Status{Machine: publicHex(f.key), Now: time.Now(), Workers: 2, Running: f.running, Release: &api.Release{Channel: "stable", Repository: f.repository}})
	case r.URL.Path == api.Jobs && r.Method == http.MethodPost:
		f.accept(w, r)
	case r.URL.Path == api.Jobs:
		list := api.List{Jobs: []api.Job{}}
		for _, j := range f.jobs {
			list.Jobs = append(list.Jobs, j)
		}
		send(w, 200, list)
	case !known:
		send(w, 404, api.Error{Text: "no such job", ExitCode: 4})
	case below == "":
		send(w, 200, job)
	case "/"+below == api.Cancel:
		send(w, 202, job)
	case "/"+below == api.Receipt:
		w.Write(f.receipt(job))
	case "/"+below == api.Output:
		send(w, 200, api.Line{Stream: api.Stdout, Data: f.output(id)})
		send(w, 0, api.Line{Stream: api.Stderr, Data: []byte("done")})
	}
}

func (f *fake) accept(w http.ResponseWriter, r *http.Request) {
	parts := map[string][]byte{}
	body, err := r.MultipartReader()
	for err == nil {
		part, next := body.NextPart()
		if err = next; err == nil {
			parts[part.FormName()], err = io.ReadAll(part)
		}
	}
	if err != io.EOF {
		send(w, 400, api.Error{Text: err.Error(), ExitCode: 2})
		return
	}
	j := api.Job{ID: strings.Repeat("0a", 32), State: api.StateDone, Reason: plasm.ReasonExit, Machine: publicHex(f.key), Created: time.Now().UTC()}
	if data := parts[api.PartOrder]; data != nil {
		o, err := order.Parse(data)
		if err != nil || o.Machine != publicHex(f.key) {
			send(w, 403, api.Error{Text: fmt.Sprint("order: ", err), ExitCode: 3})
			return
		}
		j.ID, j.Name = o.ID, o.Name
	}
	f.jobs[j.ID], f.files[j.ID] = j, parts
	send(w, 202, j)
}

// spec returns what a job asked for.
func (f *fake) spec(id string) (spec plasm.Spec) {
	if o, err := order.Parse(f.files[id][api.PartOrder]); err == nil {
		return o.Spec
	}
	var r api.Request
	_ = json.Unmarshal(f.files[id][api.PartJob], &r)
	return r.Spec
}

func (f *fake) output(id string) []byte { return []byte(strings.Join(f.spec(id).Args, " ")) }

func (f *fake) receipt(j api.Job) []byte {
	module := f.files[j.ID][api.PartModule]
	facts := receipt.Facts{ID: j.ID, Job: plasm.Job{Name: j.Name, Module: module, SHA256: sum(module)}, Spec: f.spec(j.ID)}
	out := f.output(j.ID)
	facts.Outcome = plasm.Outcome{
		Started: time.Now(), Reason: j.Reason, ExitCode: j.ExitCode, Engine: plasm.EngineInterpreter, EngineVersion: "v1", InputSHA256: sum(f.files[j.ID][api.PartInput]), InputLength: int64(len(f.files[j.ID][api.PartInput])),
		Stdout: plasm.Output{SHA256: sum(out), Length: int64(len(out))}, Stderr: plasm.Output{SHA256: sum([]byte("done")), Length: 4},
	}
	r, by := receipt.New(facts), f.key
	if f.forge != nil {
		by = f.forge(&r)
	}
	s, err := r.Sign(by, false)
	if err != nil {
		panic(err)
	}
	return s.Bytes()
}

func sum(data []byte) string {
	digest := sha256.Sum256(data)
	return hex.EncodeToString(digest[:])
}

// send answers with JSON. status 0 adds to an answer.
func send(w http.ResponseWriter, status int, v any) {
	if status != 0 {
		w.WriteHeader(status)
	}
	_ = json.NewEncoder(w).Encode(v)
}

// listen serves a handler on a unix socket and returns its client.
func listen(t *testing.T, h http.Handler) *Client {
	t.Helper()
	socket := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", socket)
	check(t, err)
	s := &http.Server{Handler: h}
	go s.Serve(l)
	t.Cleanup(func() { s.Close() })
	c := Unix(socket)
	t.Cleanup(c.Close)
	return c
}

// machine returns a fake as a machine.
func machine(t *testing.T, f *fake) Machine {
	t.Helper()
	c := listen(t, f)
	status, err := c.Status(t.Context())
	check(t, err)
	return Machine{Name: c.Name(), Client: c, Status: status}
}

// module is a job that no engine reads here.
func module(t *testing.T) *plasm.Job {
	t.Helper()
	job, err := plasm.NewJob(t.Context(), "job.wasm", []byte("module"))
	check(t, err)
	return &job
}
