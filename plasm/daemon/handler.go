package daemon

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io/fs"
	"net/http"
	"slices"
	"strconv"
	"time"

	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/internal/file"
	"github.com/phaseboot/phaseboot/internal/p2p"
	"github.com/phaseboot/phaseboot/internal/refusal"
	"github.com/phaseboot/phaseboot/manifest"
	"github.com/phaseboot/phaseboot/plasm/api"
	"github.com/phaseboot/phaseboot/plasm/queue"
)

// errBusy is the reason of a refusal that passes by itself.
var errBusy = errors.New("busy")

// A caller is where requests come from.
type caller struct {
	d     *Daemon
	local bool
	via   string
}

// Local returns the handler for the socket of the machine. Whoever can connect may do everything.
func (d *Daemon) Local() http.Handler { return caller{d, true, "socket"}.handler() }

// Network returns the handler for requests of p2p.Node.Serve.
func (d *Daemon) Network() http.Handler { return caller{d, false, "network"}.handler() }

func (c caller) handler() http.Handler {
	mux := http.NewServeMux()
	handle := func(pattern string, h func(http.ResponseWriter, *http.Request) error) {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) { c.serve(w, r, h) })
	}
	handle("POST "+api.Jobs, c.submit)
	handle("GET "+api.Jobs, c.list)
	handle("GET "+api.Jobs+"/{id}", c.show)
	handle("GET "+api.Jobs+"/{id}"+api.Output, c.output)
	handle("POST "+api.Jobs+"/{id}"+api.Cancel, c.cancel)
	handle("GET "+api.Jobs+"/{id}"+api.Receipt, c.receipt)
	handle("GET "+api.StatusPath, c.status)
	handle("GET "+api.OpenAPIPath, func(w http.ResponseWriter, _ *http.Request) error {
		w.Header().Set("Content-Type", "application/json")
		_, err := w.Write(api.OpenAPI)
		return err
	})
	if c.local {
		mux.Handle("GET "+api.MetricsPath, c.d.Metrics())
	}
	handle("/", func(_ http.ResponseWriter, r *http.Request) error {
		return refusal.New(fs.ErrNotExist, "%.10s %.100q: no such request; %s describes them", r.Method, r.URL.Path, api.OpenAPIPath)
	})
	return mux
}

// serve calls a handler. On the network it refuses the requests of a client that sent too many wrong ones.
func (c caller) serve(w http.ResponseWriter, r *http.Request, h func(http.ResponseWriter, *http.Request) error) {
	conn, client := http.NewResponseController(w), ""
	_ = conn.SetWriteDeadline(time.Now().Add(writeGrace))  // the recorder of a test has none
	_ = conn.SetReadDeadline(time.Now().Add(c.d.bodyTime)) // for a body that nobody reads; newBody sets another
	if !c.local {
		if client = c.d.client(r); !c.d.faults.Allow(client) {
			c.refuse(w, http.StatusTooManyRequests, refusal.New(errBusy, "too many wrong requests from this address; wait a few seconds"))
			return
		}
	}
	err := h(w, r)
	if err == nil {
		return
	}
	status := statusOf(err)
	if !c.local && status < http.StatusInternalServerError {
		c.d.faults.Add(client)
	}
	c.refuse(w, status, err)
}

// statusOf maps an error to an HTTP status.
func statusOf(err error) int {
	switch {
	case errors.Is(err, queue.ErrReplay), errors.Is(err, errNotDone):
		return http.StatusConflict
	case errors.Is(err, queue.ErrFull), errors.Is(err, errBusy), errors.Is(err, queue.ErrClosed):
		return http.StatusServiceUnavailable
	case file.IsFull(err):
		return http.StatusInsufficientStorage
	case errors.Is(err, manifest.ErrUntrusted):
		return http.StatusForbidden
	case errors.Is(err, cas.ErrCorrupt), errors.Is(err, manifest.ErrMalformed):
		return http.StatusUnprocessableEntity
	case errors.Is(err, fs.ErrInvalid):
		return http.StatusBadRequest
	case errors.Is(err, fs.ErrNotExist):
		return http.StatusNotFound
	}
	return http.StatusInternalServerError
}

// refuse answers with an api.Error.
func (c caller) refuse(w http.ResponseWriter, status int, err error) {
	c.d.meter.refused.WithLabelValues(c.via, strconv.Itoa(status)).Inc()
	c.d.Log.Debug("request refused", "via", c.via, "status", status, "cause", err)
	if status == http.StatusTooManyRequests || status == http.StatusServiceUnavailable {
		w.Header().Set("Retry-After", "2")
	}
	answer(w, status, api.Error{Text: oneLine(err), ExitCode: c.d.ExitCode(err)})
}

func answer(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v) // a client that has gone does not read it
}

// job finds the job of a request.
func (c caller) job(r *http.Request) (queue.Job, error) {
	id := r.PathValue("id")
	j, ok := c.d.Queue.Get(id)
	if !ok {
		return j, refusal.New(fs.ErrNotExist, "job %.70q: unknown to this machine; it may have been dropped to make room for newer ones", id)
	}
	return j, nil
}

func (c caller) show(w http.ResponseWriter, r *http.Request) error {
	j, err := c.job(r)
	if err == nil {
		answer(w, http.StatusOK, c.d.shown(j))
	}
	return err
}

// list shows all jobs on the machine, and on the network those of the submitter that asks.
func (c caller) list(w http.ResponseWriter, r *http.Request) error {
	keep := func(queue.Job) bool { return true }
	if !c.local {
		key := hex.EncodeToString(p2p.RemoteKey(r))
		if _, ok := c.d.submitter(key); !ok {
			return refusal.New(manifest.ErrUntrusted, "list: the peer key of this connection is none of the submitters of the release; name the key file of one with --key, or show a job by its ID")
		}
		keep = func(j queue.Job) bool { return j.Key == key }
	}
	list := api.List{Jobs: []api.Job{}}
	for _, j := range c.d.Queue.List(keep) {
		list.Jobs = append(list.Jobs, c.d.shown(j))
	}
	answer(w, http.StatusOK, list)
	return nil
}

var states = map[string]string{
	queue.Waiting: api.StateQueued, queue.Claimed: api.StateFetching, queue.Running: api.StateRunning, queue.Done: api.StateDone,
}

// shown returns a job as the API shows it.
func (d *Daemon) shown(j queue.Job) api.Job {
	return api.Job{
		ID: j.ID, Name: j.Name, State: states[j.State], Submitter: j.Submitter, Module: j.Module, Role: j.Role, Created: j.Created,
		Started: j.Started, Ended: j.Ended, Reason: j.Reason, ExitCode: j.ExitCode, Detail: j.Detail, Machine: d.machine,
	}
}

// output sends the output of a job, and with follow goes on until the job is done.
func (c caller) output(w http.ResponseWriter, r *http.Request) error {
	j, err := c.job(r)
	if err != nil {
		return err
	}
	follow := r.URL.Query().Get("follow")
	if follow != "" && follow != "0" && follow != "1" {
		return refusal.Invalid("follow=%.20q: write 0 or 1", follow)
	}
	if !c.local && follow == "1" {
		client := c.d.client(r)
		if err := c.d.faults.follow.enter(client); err != nil {
			return err
		}
		defer c.d.faults.follow.leave(client)
	}
	w.Header().Set("Content-Type", "application/x-ndjson")
	w.WriteHeader(http.StatusOK)
	conn, lines := http.NewResponseController(w), json.NewEncoder(w)
	_ = conn.Flush()                      // reads the body, if a client sends one
	_ = conn.SetReadDeadline(time.Time{}) // the server reads on, and would end the request
	defer func() { _ = conn.SetReadDeadline(time.Now().Add(c.d.bodyTime)) }()
	err = c.d.Queue.Follow(r.Context(), j.ID, follow == "1", func(stream int, p []byte) error {
		_ = conn.SetWriteDeadline(time.Now().Add(writeGrace))
		if err := lines.Encode(api.Line{Stream: []string{api.Stdout, api.Stderr}[stream], Data: p}); err != nil {
			return err
		}
		return conn.Flush()
	})
	if err != nil {
		panic(http.ErrAbortHandler) // the client must see that it has not the whole output
	}
	_ = conn.SetWriteDeadline(time.Now().Add(writeGrace))
	return nil
}

func (c caller) cancel(w http.ResponseWriter, r *http.Request) error {
	j, err := c.job(r)
	if err != nil {
		return err
	}
	ctx, stop := context.WithTimeout(r.Context(), cancelGrace)
	defer stop()
	c.d.Cancel(ctx, j.ID)
	j, _ = c.d.Queue.Get(j.ID)
	answer(w, http.StatusOK, c.d.shown(j))
	return nil
}

// errNotDone is the reason of a refusal to show a receipt.
var errNotDone = errors.New("not done")

func (c caller) receipt(w http.ResponseWriter, r *http.Request) error {
	j, err := c.job(r)
	if err != nil {
		return err
	}
	if j.State != queue.Done {
		return refusal.New(errNotDone, "job %s: no receipt before it has ended; ask again then", j.ID)
	}
	data, err := c.d.Queue.Receipt(j.ID)
	if err != nil {
		return err
	}
	if data == nil {
		return refusal.New(fs.ErrNotExist, "job %s: it has no receipt; the log of plasmd says why", j.ID)
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(append(data, '\n')) // a client that has gone does not read it
	return nil
}

func shownRelease(rel *manifest.Release) *api.Release {
	return &api.Release{Channel: rel.Channel, Arch: rel.Arch, Version: rel.Version, Number: rel.Number, Repository: rel.Repository}
}

func (c caller) status(w http.ResponseWriter, _ *http.Request) error {
	d, f := c.d, c.d.Queue.Figures()
	s := api.Status{
		Machine: d.machine, Ephemeral: d.Ephemeral, Submitters: []string{}, Groups: d.Groups, Private: d.Private, Workers: d.Workers,
		Running: f.Claimed + f.Running, Queued: f.Waiting, QueueLimit: d.Queue.MaxWaiting(), Stored: f.Waiting + f.Claimed + f.Running + f.Done,
		Started: d.started, Now: d.Now().UTC(), Version: d.Version,
	}
	if rel := d.Release; rel != nil {
		s.Release = shownRelease(rel)
		for _, by := range rel.Submitters {
			s.Submitters = append(s.Submitters, by.Name)
		}
	}
	slices.Sort(s.Submitters)
	d.mu.Lock()
	s.Peer = d.peer
	listen := d.listen
	d.mu.Unlock()
	if listen != nil {
		s.Listen = listen()
	}
	answer(w, http.StatusOK, s)
	return nil
}
