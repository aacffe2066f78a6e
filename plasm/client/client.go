package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"regexp"
	"strings"
	"syscall"
	"time"

	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/internal/refusal"
	"github.com/phaseboot/phaseboot/manifest"
	"github.com/phaseboot/phaseboot/plasm/api"
)

// Limits of answers, in bytes.
const (
	maxAnswer  = 256 << 10 // job, status, error
	maxReceipt = 1 << 20
	maxList    = 32 << 20
	maxWords   = 1 << 10 // of an error
	maxNameLen = 200     // of a job or a submitter
)

// answerTimeout bounds a request whose answer the daemon has at once.
const answerTimeout = 30 * time.Second

// leastRate is how fast a submission must be sent, in bytes a second: the daemon has the same limit.
const leastRate = 16 << 10

// jobID matches the ID of a job.
var jobID = regexp.MustCompile(`^[0-9a-f]{64}$`)

// IsID reports whether a text is the full ID of a job.
func IsID(text string) bool { return jobID.MatchString(text) }

// A Client speaks to the daemon of one machine. It is safe for concurrent use.
type Client struct {
	name string
	http *http.Client
}

// Unix returns the client of the daemon that listens on a unix socket. Nothing is dialled before the
// first request.
func Unix(path string) *Client {
	t := &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			conn, err := new(net.Dialer).DialContext(ctx, "unix", path)
			if err != nil {
				return nil, dialError{socketError(path, err)}
			}
			return conn, nil
		},
		DisableCompression:     true,
		MaxResponseHeaderBytes: 16 << 10,
		ResponseHeaderTimeout:  answerTimeout,
	}
	return &Client{path, &http.Client{Transport: t}}
}

// errNoDaemon says that the socket of a daemon is not there.
var errNoDaemon = fmt.Errorf("%w: %w", fs.ErrNotExist, cas.ErrUnreachable)

// socketError words the error of a socket that cannot be dialled. A socket that is not there is one of a daemon that
// may start again, like one that refuses: the client of a job goes on asking.
func socketError(path string, err error) error {
	const remedy = "start one with 'plasmd serve', or name a machine with --machine"
	info, statErr := os.Stat(path)
	switch {
	case statErr == nil && info.Mode().Type() != fs.ModeSocket:
		return refusal.Invalid("not a socket; name the one of 'plasmd serve' with --socket")
	case errors.Is(err, fs.ErrNotExist):
		return refusal.New(errNoDaemon, "no daemon on this machine; %s", remedy)
	case errors.Is(err, syscall.ECONNREFUSED):
		return refusal.New(cas.ErrUnreachable, "the daemon of this machine has ended; %s", remedy)
	case errors.Is(err, fs.ErrPermission):
		return refusal.New(fs.ErrPermission, "permission denied; run this as root, or as a member of the group of the socket")
	case errors.Is(err, syscall.ENOTSOCK), errors.Is(err, syscall.EINVAL):
		return refusal.Invalid("not a socket that can be used; name the one of 'plasmd serve' with --socket")
	}
	return err
}

// Name returns what the machine was dialled as: the path of the socket, or an address.
func (c *Client) Name() string { return c.name }

// Close closes idle connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// Status returns the state of the daemon.
func (c *Client) Status(ctx context.Context) (api.Status, error) {
	var s api.Status
	if err := c.get(ctx, api.StatusPath, maxAnswer, &s); err != nil {
		return api.Status{}, err
	}
	if !jobID.MatchString(s.Machine) {
		return api.Status{}, c.broken("the key of the machine is %.80q", s.Machine)
	}
	texts := []*string{&s.Version, &s.Peer}
	if r := s.Release; r != nil {
		texts = append(texts, &r.Channel, &r.Arch, &r.Version, &r.Repository)
	}
	for _, list := range [][]string{s.Listen, s.Submitters, s.Groups} {
		for i := range list {
			texts = append(texts, &list[i])
		}
	}
	for _, text := range texts {
		*text = words(*text, maxNameLen)
	}
	return s, nil
}

// List returns the jobs that the daemon shows to this client, the newest first.
func (c *Client) List(ctx context.Context) ([]api.Job, error) {
	var list api.List
	if err := c.get(ctx, api.Jobs, maxList, &list); err != nil {
		return nil, err
	}
	for i := range list.Jobs {
		if err := c.checkJob(&list.Jobs[i], list.Jobs[i].ID); err != nil {
			return nil, err
		}
	}
	return list.Jobs, nil
}

// Job returns the state of a job. The error wraps fs.ErrNotExist if the daemon does not know it.
func (c *Client) Job(ctx context.Context, id string) (api.Job, error) {
	return c.job(ctx, http.MethodGet, id, "")
}

// Cancel ends a job: the daemon stops it, or takes it out of the queue. A job that is done stays as it is.
func (c *Client) Cancel(ctx context.Context, id string) (api.Job, error) {
	return c.job(ctx, http.MethodPost, id, api.Cancel)
}

func (c *Client) job(ctx context.Context, method, id, below string) (api.Job, error) {
	ctx, cancel := context.WithTimeout(ctx, answerTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, base+jobPath(id)+below, nil)
	if err != nil {
		return api.Job{}, err
	}
	var j api.Job
	if err := c.do(req, maxAnswer, &j); err != nil {
		return api.Job{}, err
	}
	return j, c.checkJob(&j, id)
}

// Receipt returns the receipt of a job that is done: a DSSE envelope, which is not verified.
func (c *Client) Receipt(ctx context.Context, id string) ([]byte, error) {
	var envelope json.RawMessage
	return envelope, c.get(ctx, jobPath(id)+api.Receipt, maxReceipt, &envelope)
}

// base is the origin of all requests. Each client has its own way to the one machine behind it.
const base = "http://plasmd"

func jobPath(id string) string { return api.Jobs + "/" + id }

// get requests a path and decodes the answer.
func (c *Client) get(ctx context.Context, path string, limit int64, into any) error {
	ctx, cancel := context.WithTimeout(ctx, answerTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, base+path, nil)
	if err != nil {
		return err
	}
	return c.do(req, limit, into)
}

// do sends a request and decodes the answer, which has at most limit bytes.
func (c *Client) do(req *http.Request, limit int64, into any) error {
	resp, err := c.send(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(io.LimitReader(resp.Body, limit+1))
	if err != nil {
		return c.lost(req.Context(), err)
	}
	if int64(len(data)) > limit {
		return c.broken("an answer of more than %d bytes", limit)
	}
	if err := json.Unmarshal(data, into); err != nil {
		return c.broken("%v", err)
	}
	return nil
}

// send sends a request. An answer that refuses it is an error.
func (c *Client) send(req *http.Request) (*http.Response, error) {
	req.Header.Set("User-Agent", "plasmd")
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, c.lost(req.Context(), err)
	}
	if resp.StatusCode < http.StatusMultipleChoices {
		return resp, nil
	}
	defer resp.Body.Close()
	data, _ := io.ReadAll(io.LimitReader(resp.Body, maxAnswer)) // what came is shown
	return nil, c.refused(resp, data)
}

// refused returns the error of an answer that refuses a request.
func (c *Client) refused(resp *http.Response, data []byte) error {
	var e api.Error
	if json.Unmarshal(data, &e) != nil || e.Text == "" {
		if resp.StatusCode == http.StatusNotFound {
			return c.NotADaemon()
		}
		return c.broken("HTTP status %d", resp.StatusCode)
	}
	text := words(e.Text, maxWords)
	if resp.StatusCode == http.StatusServiceUnavailable || resp.StatusCode == http.StatusTooManyRequests {
		return refusal.New(ErrBusy, "%s", text)
	}
	switch e.ExitCode {
	case 2:
		return refusal.New(fs.ErrInvalid, "%s", text)
	case 3:
		return refusal.New(manifest.ErrUntrusted, "%s", text)
	case 4:
		return refusal.New(fs.ErrNotExist, "%s", text)
	case 5:
		return refusal.New(cas.ErrCorrupt, "%s", text)
	}
	return errors.New(text)
}

// ErrBusy says that the daemon would answer later: its queue is full, or too many clients ask.
var ErrBusy = errors.New("busy")

// ErrNotADaemon says that a machine was reached and no daemon for jobs answers there.
var ErrNotADaemon = fmt.Errorf("runs no plasmd: %w", cas.ErrUnreachable)

// NotADaemon returns the error of a peer that serves something else.
func (c *Client) NotADaemon() error {
	return refusal.New(ErrNotADaemon, "no plasmd answers there; start it with 'plasmd serve'")
}

// broken returns the error of an answer that no daemon gives.
func (c *Client) broken(format string, args ...any) error {
	return refusal.New(cas.ErrCorrupt, "its answer cannot be read: %s; does it run another version of plasmd?", words(fmt.Sprintf(format, args...), maxWords))
}

// A dialError is the error of a machine that was not reached. Its words are ours.
type dialError struct{ error }

func (e dialError) Unwrap() error { return e.error }

// lost words the error of a request without an answer.
func (c *Client) lost(ctx context.Context, err error) error {
	var dial dialError
	var timeout net.Error
	switch {
	case errors.Is(ctx.Err(), context.Canceled):
		return context.Canceled
	case errors.As(err, &dial):
		return dial.error
	case errors.Is(ctx.Err(), context.DeadlineExceeded), errors.As(err, &timeout) && timeout.Timeout():
		return refusal.New(cas.ErrUnreachable, "no answer; is the machine on?")
	case errors.Is(err, cas.ErrUnreachable):
		return err
	}
	return refusal.New(cas.ErrUnreachable, "the connection was lost; is the machine on?")
}

// checkJob refuses a job with another ID or a state that does not exist, and makes its texts printable.
func (c *Client) checkJob(j *api.Job, id string) error {
	if !jobID.MatchString(j.ID) || j.ID != id {
		return c.broken("a job with the ID %.80q", j.ID)
	}
	switch j.State {
	case api.StateQueued, api.StateFetching, api.StateRunning, api.StateDone:
	default:
		return c.broken("a job in the state %.40q", j.State)
	}
	for _, text := range []*string{&j.Name, &j.Submitter, &j.Module, &j.Role, &j.Reason, &j.Machine} {
		*text = words(*text, maxNameLen)
	}
	j.Detail = words(j.Detail, maxWords)
	return nil
}

// words makes a text of a daemon printable and cuts it to some bytes.
func words(s string, most int) string {
	if len(s) > most {
		s = strings.ToValidUTF8(s[:most], "") + "…"
	}
	return refusal.Printable(s)
}
