package daemon

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"mime"
	"mime/multipart"
	"net/http"
	"os"
	"time"

	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/internal/refusal"
	"github.com/phaseboot/phaseboot/manifest"
	"github.com/phaseboot/phaseboot/plasm"
	"github.com/phaseboot/phaseboot/plasm/api"
	"github.com/phaseboot/phaseboot/plasm/order"
	"github.com/phaseboot/phaseboot/plasm/queue"
)

// formOverhead is what the headers of the parts of a submission may have, in bytes.
const formOverhead = 8 << 10

// orderSkew is how long before it was signed an order begins to be valid: package order sets the date.
const orderSkew = 5 * time.Minute

// submit accepts a job. The first part is the order or the request: what is refused by it has cost no more
// than that part.
func (c caller) submit(w http.ResponseWriter, r *http.Request) error {
	kind, params, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if err != nil || kind != "multipart/form-data" || params["boundary"] == "" {
		return refusal.Invalid("submission: its Content-Type is %.60q; send multipart/form-data", r.Header.Get("Content-Type"))
	}
	body := newBody(w, r.Body, api.MaxOrder+formOverhead)
	form := multipart.NewReader(body, params["boundary"])
	s, leave, err := c.admit(r, form)
	if err != nil {
		return err
	}
	defer leave()
	if err := c.d.Queue.Check(s); err != nil {
		return replayed(err)
	}
	body.allow(c.d.MaxModule + c.d.MaxInput + formOverhead)
	defer func() { s.ModuleBytes.Discard(); s.InputBytes.Discard() }()
	if err := c.parts(form, &s); err != nil {
		return err
	}
	if err := c.d.check(r.Context(), &s); err != nil {
		return err
	}
	j, err := c.d.Queue.Accept(s)
	if err != nil {
		return replayed(err)
	}
	c.d.meter.accepted.WithLabelValues(c.via).Inc()
	c.d.Log.Info("job accepted", "job", j.ID, "name", j.Name, "via", c.via, "submitter", j.Submitter)
	_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(writeGrace))
	w.Header().Set("Location", api.Jobs+"/"+j.ID)
	answer(w, http.StatusAccepted, c.d.shown(j))
	return nil
}

// admit reads the first part in a slot of the client, and then takes one for the others. Over the network that is a
// slot of the submitter: a client that has signed nothing takes none from those who have.
func (c caller) admit(r *http.Request, form *multipart.Reader) (s queue.Submission, leave func(), err error) {
	slots, client := c.d.local, ""
	if !c.local {
		slots, client = c.d.opening, c.d.client(r)
	}
	if err := slots.enter(client); err != nil {
		return s, nil, err
	}
	leave = func() { slots.leave(client) }
	s, err = c.first(form)
	if c.local && err == nil {
		return s, leave, nil
	}
	leave()
	if err == nil {
		err = c.d.network.enter(s.Key)
	}
	return s, func() { c.d.network.leave(s.Key) }, err
}

// replayed makes a replay a matter of trust.
func replayed(err error) error {
	if errors.Is(err, queue.ErrReplay) {
		return refusal.New(errors.Join(queue.ErrReplay, manifest.ErrUntrusted), "%v", err)
	}
	return err
}

// first reads the order or the request.
func (c caller) first(form *multipart.Reader) (queue.Submission, error) {
	part, err := form.NextRawPart()
	if err != nil {
		return queue.Submission{}, unreadable(err)
	}
	name := part.FormName()
	if name != api.PartOrder && name != api.PartJob {
		return queue.Submission{}, refusal.Invalid("submission: its first part is %.40q; begin with %s, or on the machine with %s", name, api.PartOrder, api.PartJob)
	}
	data, err := io.ReadAll(io.LimitReader(part, api.MaxOrder+1))
	if err != nil {
		return queue.Submission{}, unreadable(err)
	}
	if len(data) > api.MaxOrder {
		return queue.Submission{}, refusal.Invalid("%s: more than %d bytes; give fewer arguments, and the rest on stdin", name, api.MaxOrder)
	}
	switch {
	case name == api.PartOrder:
		return c.d.ordered(data)
	case !c.local:
		return queue.Submission{}, refusal.New(manifest.ErrSignature, "order: not signed: over the network a job is an order that a submitter of the release has signed; sign one")
	}
	return c.d.requested(data)
}

func unreadable(err error) error {
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		return refusal.Invalid("submission: it comes too slowly; use a faster connection")
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return refusal.Invalid("submission: cut off; send it again")
	case errors.Is(err, fs.ErrInvalid):
		return err
	}
	return refusal.Invalid("submission: %.160s; send it again", oneLine(err))
}

// ordered returns the job of an order that a submitter has signed.
func (d *Daemon) ordered(data []byte) (queue.Submission, error) {
	var submitters []manifest.Submitter
	if d.Release != nil {
		submitters = d.Release.Submitters
	}
	o, by, err := order.Open(data, submitters, d.Key.Public().(ed25519.PublicKey), d.Groups, d.Now())
	if err != nil {
		return queue.Submission{}, err
	}
	if made := o.NotBefore.Add(orderSkew); made.Before(d.Queue.Created().Truncate(time.Second)) && !(d.Ephemeral && o.Machine != "") {
		return queue.Submission{}, refusal.New(errors.Join(queue.ErrReplay, manifest.ErrUntrusted),
			"order: signed about %s, before this machine began to remember orders at %s; sign a new order", made.UTC().Format(time.RFC3339), d.Queue.Created().Format(time.RFC3339))
	}
	key := hex.EncodeToString(by.Key)
	s, err := submission(queue.Job{
		ID: o.ID, Name: o.Name, Submitter: by.Name, Key: key, Role: o.Role, Module: o.ModuleCID, Digest: o.ModuleSHA256, Input: o.InputSHA256,
	}, o.Spec)
	s.Limit, s.Nonce = by.Jobs, &queue.Nonce{Key: key, Value: o.Nonce, Expires: o.Expires}
	return s, err
}

// requested returns the job of a request on the machine.
func (d *Daemon) requested(data []byte) (queue.Submission, error) {
	var q api.Request
	decode := json.NewDecoder(bytes.NewReader(data))
	decode.DisallowUnknownFields()
	if err := decode.Decode(&q); err != nil {
		return queue.Submission{}, refusal.Invalid("job: %.160s; write it as api/openapi.json says", oneLine(err))
	}
	if q.Name == "" || len(q.Name) > 200 || refusal.Printable(q.Name) != q.Name {
		return queue.Submission{}, refusal.Invalid("job: name %.60q: give 1 to 200 bytes that print", q.Name)
	}
	if q.Role != "" && q.ModuleCID != "" {
		return queue.Submission{}, refusal.Invalid("job: it names a role and a CID; name one of them")
	}
	if q.ModuleCID != "" {
		if _, err := cas.ParseCID(q.ModuleCID); err != nil {
			return queue.Submission{}, refusal.Invalid("job: module_cid: %s", oneLine(err))
		}
	}
	if q.Role != "" && d.Release == nil {
		return queue.Submission{}, refusal.New(fs.ErrNotExist, "job: role %.60q: this machine has no release; submit the module with its bytes", q.Role)
	}
	if err := q.Spec.Check(); err != nil {
		return queue.Submission{}, err
	}
	var id [32]byte
	_, _ = rand.Read(id[:]) // never returns an error
	return submission(queue.Job{ID: hex.EncodeToString(id[:]), Name: q.Name, Role: q.Role, Module: q.ModuleCID}, q.Spec)
}

func submission(j queue.Job, spec plasm.Spec) (queue.Submission, error) {
	text, err := json.Marshal(spec)
	j.Spec, j.OutputLimit = text, spec.Limits.Output
	return queue.Submission{Job: j}, err
}

// parts reads the module and the input.
func (c caller) parts(form *multipart.Reader, s *queue.Submission) error {
	for {
		part, err := form.NextRawPart()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return unreadable(err)
		}
		name := part.FormName()
		to, limit := &s.ModuleBytes, c.d.MaxModule
		switch name {
		case api.PartModule:
		case api.PartInput:
			to, limit = &s.InputBytes, c.d.MaxInput
		default:
			return refusal.Invalid("submission: part %.40q; send %s and %s", name, api.PartModule, api.PartInput)
		}
		if *to != nil {
			return refusal.Invalid("submission: part %s comes twice; send it once", name)
		}
		if *to, err = c.d.Queue.NewUpload(s.Key, limit); err != nil {
			return err
		}
		if _, err := io.Copy(struct{ io.Writer }{*to}, part); err != nil {
			if errors.Is(err, queue.ErrFull) || statusOf(err) == http.StatusInsufficientStorage {
				return err
			}
			return fmt.Errorf("%s: %w", name, unreadable(err))
		}
	}
}

// check compares what came with what the job names.
func (d *Daemon) check(ctx context.Context, s *queue.Submission) error {
	var spec plasm.Spec
	if err := json.Unmarshal(s.Spec, &spec); err != nil {
		return err
	}
	m, in := s.ModuleBytes, s.InputBytes
	switch {
	case s.Role != "" && m != nil:
		return refusal.Invalid("module: the job names role %.60q; send no module", s.Role)
	case s.Role == "" && s.Module == "" && m == nil:
		return refusal.Invalid("module: the job names no role and no CID; send the module")
	case m == nil && d.Fetch == nil && d.fetches(s.Job):
		return refusal.New(fs.ErrNotExist, "module %s: this machine fetches no modules, and its release does not have this one; send the module", s.Module)
	case m != nil && m.Length() == 0:
		return refusal.New(cas.ErrCorrupt, "module: empty; build it as a WASI command")
	case m != nil && s.Digest != "" && s.Digest != m.Digest():
		return refusal.New(cas.ErrCorrupt, "module: sha256 %s, the order names %s; send the module that was ordered", m.Digest(), s.Digest)
	case in != nil && !spec.Grants.Stdin:
		return refusal.Invalid("input: the job does not ask for stdin; ask for it, or send no input")
	case s.Nonce != nil && in == nil && s.Input != "":
		return refusal.Invalid("input: missing; the order names one with sha256 %s", s.Input)
	case s.Nonce != nil && in != nil && s.Input != in.Digest():
		return refusal.New(cas.ErrCorrupt, "input: sha256 %s, the order names %.64q; send the input that was ordered", in.Digest(), s.Input)
	}
	if s.Role != "" {
		art, ok := d.Release.Artifact(s.Role)
		if !ok {
			return refusal.New(fs.ErrNotExist, "job: release %q has no %.60q; name one of its jobs", d.Release.Version, s.Role)
		}
		s.Module, s.Digest, s.Length = art.CID.String(), art.SHA256, art.Length
	}
	if m == nil {
		return nil
	}
	return checkCID(ctx, s)
}

// checkCID sets the CID of a module that came with the job, or compares it with the one that the job names.
func checkCID(ctx context.Context, s *queue.Submission) error {
	f, err := os.Open(s.ModuleBytes.Path())
	if err != nil {
		return err
	}
	defer f.Close()
	got, err := cas.FileCID(ctx, f, cas.DefaultChunker)
	if err != nil {
		return fmt.Errorf("module: %w", err)
	}
	if c := got.CID.String(); s.Module == "" {
		s.Module = c
	} else if s.Module != c {
		return refusal.New(cas.ErrCorrupt, "module: its CID is %s, the job names %s; send the module that the job names, or only its CID", c, s.Module)
	}
	return nil
}

// A body is the body of a submission. It ends with an error after the bytes that are allowed so far, and
// when it comes too slowly.
type body struct {
	r     io.Reader
	conn  *http.ResponseController
	start time.Time
	grace time.Duration
	read  int64
	left  int64
}

func newBody(w http.ResponseWriter, r io.Reader, limit int64) *body {
	return &body{r: r, conn: http.NewResponseController(w), start: time.Now(), grace: firstTime, left: limit}
}

// allow allows more bytes, with more time.
func (b *body) allow(n int64) { b.left, b.grace = b.left+n, firstTime+readGrace }

func (b *body) Read(p []byte) (int, error) {
	if b.left <= 0 {
		return 0, refusal.Invalid("submission: too long; the limits are in api/openapi.json")
	}
	earned := time.Duration(float64(b.read) / leastRate * float64(time.Second))
	_ = b.conn.SetReadDeadline(b.start.Add(b.grace + earned)) // the recorder of a test has none
	n, err := b.r.Read(p[:min(int64(len(p)), b.left)])
	b.read, b.left = b.read+int64(n), b.left-int64(n)
	return n, err
}
