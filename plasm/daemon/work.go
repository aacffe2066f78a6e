package daemon

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"time"

	"github.com/ipfs/go-cid"

	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/internal/file"
	"github.com/phaseboot/phaseboot/internal/refusal"
	"github.com/phaseboot/phaseboot/manifest"
	"github.com/phaseboot/phaseboot/plasm"
	"github.com/phaseboot/phaseboot/plasm/api"
	"github.com/phaseboot/phaseboot/plasm/queue"
	"github.com/phaseboot/phaseboot/plasm/receipt"
)

// A run is one job on its way to an outcome.
type run struct {
	job         queue.Job
	spec        plasm.Spec
	module      plasm.Job // zero until it is there
	wait, fetch time.Duration
	began       time.Time
	out         *queue.Output
	stdout      part
	stderr      part
	under       *setting // nil: that of this daemon
}

// A setting is what a receipt states about the machine. It is stored when a job begins: the daemon that finds the job
// interrupted may be another version, in another release.
type setting struct {
	Engine  string       `json:"engine"` // version
	Release *api.Release `json:"release,omitempty"`
	Root    int64        `json:"root,omitempty"`
	Report  string       `json:"report,omitempty"`
}

// setting returns the setting of this daemon as JSON.
func (d *Daemon) setting() json.RawMessage {
	s := setting{Engine: plasm.EngineVersion(), Root: d.Root, Report: d.Report}
	if d.Release != nil {
		s.Release = shownRelease(d.Release)
	}
	text, _ := json.Marshal(s) // strings and numbers: it cannot fail
	return text
}

// work runs a claimed job. running ends when the daemon stops for good.
func (d *Daemon) work(running context.Context, j queue.Job) {
	ctx, stop := context.WithCancelCause(running)
	defer stop(nil)
	d.mu.Lock()
	d.cancel[j.ID] = stop
	if d.early[j.ID] > 0 {
		stop(errCancelled)
	}
	d.mu.Unlock()
	defer func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		delete(d.cancel, j.ID)
	}()
	r := &run{job: j}
	outcome, err := d.run(ctx, r, stop)
	if err != nil {
		if r.began.IsZero() && !errors.Is(context.Cause(ctx), errCancelled) && d.isEnding() {
			d.Queue.Unclaim(j.ID)
			return
		}
		outcome = r.failed(context.Cause(ctx), err, outcome)
	}
	d.finish(running, r, outcome)
}

// run brings the module and runs it. An error means that the job has no outcome of its own.
func (d *Daemon) run(ctx context.Context, r *run, stop context.CancelCauseFunc) (plasm.Outcome, error) {
	j := r.job
	err := d.readSpec(r)
	if err != nil {
		return plasm.Outcome{}, err
	}
	if _, named := d.submitter(j.Key); j.Key != "" && !named {
		return plasm.Outcome{}, fmt.Errorf("the release of this machine no longer names submitter %q", j.Submitter)
	}
	if err := d.load(ctx, r); err != nil {
		return plasm.Outcome{}, &moduleError{err}
	}
	r.module.Name = j.Name
	std := plasm.IO{Artifacts: d.artifact}
	if j.HasInput {
		in, err := d.Queue.OpenInput(j)
		if err != nil {
			return plasm.Outcome{}, err
		}
		defer in.Close()
		std.Stdin = in
	}
	select {
	case d.slots <- struct{}{}:
		defer func() { <-d.slots }()
	case <-ctx.Done():
	case <-d.ending:
		return plasm.Outcome{}, errStopping
	}
	if err := errors.Join(ctx.Err(), d.expired(j)); err != nil {
		return plasm.Outcome{}, err
	}
	began := d.Now().UTC()
	r.wait = began.Sub(j.Created)
	if r.out, err = d.Queue.Begin(j.ID, queue.Module{CID: r.module.CID.String(), SHA256: r.module.SHA256, Length: int64(len(r.module.Module)), Machine: d.setting()}, began); err != nil {
		return plasm.Outcome{}, err
	}
	r.began = began
	defer r.out.Close()
	r.stdout, r.stderr = newPart(r.out, queue.Stdout, stop), newPart(r.out, queue.Stderr, stop)
	std.Stdout, std.Stderr = &r.stdout, &r.stderr
	d.Log.Info("job begins", "job", j.ID, "name", j.Name, "submitter", j.Submitter)
	return d.Engine(ctx, r.module, r.spec, std)
}

// readSpec reads the spec of a job, which Accept stored as JSON.
func (d *Daemon) readSpec(r *run) error {
	text, err := d.Queue.Spec(r.job.ID)
	if err != nil {
		return err
	}
	return json.Unmarshal(text, &r.spec)
}

// isEnding reports whether no job may begin any more.
func (d *Daemon) isEnding() bool {
	select {
	case <-d.ending:
		return true
	default:
		return false
	}
}

// failed returns the outcome of a job whose run ended without one.
// ran has what was measured until then; it is empty if no process was started.
func (r *run) failed(cause, err error, ran plasm.Outcome) plasm.Outcome {
	o := plasm.Outcome{ExitCode: plasm.NoExitCode, Reason: reasonOf(err), Detail: oneLine(err)}
	switch {
	case errors.Is(cause, errCancelled):
		o = cancelled()
	case cause != nil && !errors.Is(cause, context.Canceled):
		o.Reason, o.Detail = api.ReasonInterrupted, oneLine(cause)
	}
	if !r.began.IsZero() && (o.Reason == api.ReasonCancelled || o.Reason == api.ReasonInterrupted) {
		o.Started, o.Compile, o.Run = r.began, ran.Compile, ran.Run
		if ran.Compile+ran.Run == 0 { // no process was started
			o.Run = time.Since(r.began)
		}
		o.CPU, o.MemoryPeak = ran.CPU, ran.MemoryPeak
		o.Engine, o.EngineVersion = known(cmp.Or(ran.Engine, r.spec.RunsOn()), plasm.EngineVersion())
	}
	if !r.began.IsZero() {
		o.Stdout, o.Stderr = r.stdout.output(), r.stderr.output()
	}
	return o
}

// known returns an engine and its version, and neither for an engine that is not known.
func known(engine, version string) (string, string) {
	if engine == "" {
		return "", ""
	}
	return engine, version
}

// load brings the module of a job.
func (d *Daemon) load(ctx context.Context, r *run) (err error) {
	switch j := r.job; {
	case j.HasModule:
		r.module, err = d.stored(ctx, j)
	case j.Role != "" && d.Release == nil:
		err = fmt.Errorf("role %s: this machine has no release: %w", j.Role, fs.ErrNotExist)
	case !d.fetches(j):
		rel := *d.Release
		rel.Job = cmp.Or(j.Role, d.roleOf(j.Module))
		r.module, err = plasm.LoadJob(ctx, rel, d.Dir)
	case d.Fetch == nil:
		err = refusal.New(fs.ErrNotExist, "module %s: this machine fetches no modules; submit it with its bytes", j.Module)
	default:
		began := time.Now()
		r.module, err = d.fetch(ctx, j, r.spec.Limits.Module)
		r.fetch = time.Since(began)
	}
	if err == nil {
		err = checkDigest(r.job, r.module)
	}
	return err
}

// stored reads a module that came with its job.
func (d *Daemon) stored(ctx context.Context, j queue.Job) (plasm.Job, error) {
	f, err := d.Queue.OpenModule(j)
	if err != nil {
		return plasm.Job{}, err
	}
	defer f.Close()
	data, err := file.ReadAll(f, d.MaxModule)
	if err != nil {
		return plasm.Job{}, fmt.Errorf("module: %w", err)
	}
	return d.named(ctx, j, data)
}

// named returns the job with bytes that came with it.
func (d *Daemon) named(ctx context.Context, j queue.Job, data []byte) (plasm.Job, error) {
	job, err := plasm.NewJob(ctx, j.Name, data)
	if err != nil {
		return plasm.Job{}, err
	}
	if c, err := cid.Decode(j.Module); err == nil {
		job.CID = c // submit compared it
	}
	return job, nil
}

func checkDigest(j queue.Job, job plasm.Job) error {
	if j.Digest != "" && j.Digest != job.SHA256 {
		return fmt.Errorf("module: sha256 %s, the job names %s: %w", job.SHA256, j.Digest, cas.ErrCorrupt)
	}
	return nil
}

// artifact opens an artifact of the release, and compares its bytes with the signed entry.
func (d *Daemon) artifact(role string) (*os.File, error) {
	if d.Release == nil {
		return nil, fmt.Errorf("this machine has no release: %w", fs.ErrNotExist)
	}
	art, ok := d.Release.Artifact(role)
	if !ok {
		return nil, fmt.Errorf("not in release %q: %w", d.Release.Version, fs.ErrNotExist)
	}
	f, err := file.OpenInRoot(d.Dir, role)
	if err != nil {
		return nil, fmt.Errorf("not on this machine: %w", file.Pathless(err))
	}
	h := sha256.New()
	n, err := io.Copy(h, io.LimitReader(f, art.Length+1))
	if err == nil {
		_, err = f.Seek(0, io.SeekStart)
	}
	if err == nil && (n != art.Length || hex.EncodeToString(h.Sum(nil)) != art.SHA256) {
		err = fmt.Errorf("differs from the signed entry: %w; boot again to fetch it again", cas.ErrCorrupt)
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// A part is stdout or stderr of a run: it goes to the store and to a digest.
type part struct {
	out    *queue.Output
	stream int
	stop   context.CancelCauseFunc
	hash   hash.Hash
	length int64
}

func newPart(out *queue.Output, stream int, stop context.CancelCauseFunc) part {
	return part{out, stream, stop, sha256.New(), 0}
}

// Write never fails: an output that cannot be stored ends the job.
func (p *part) Write(b []byte) (int, error) {
	if err := p.out.Write(p.stream, b); err != nil {
		p.stop(err)
		return len(b), nil
	}
	p.hash.Write(b)
	p.length += int64(len(b))
	return len(b), nil
}

func (p *part) output() plasm.Output {
	if p.hash == nil {
		return plasm.Output{}
	}
	return plasm.Output{SHA256: hex.EncodeToString(p.hash.Sum(nil)), Length: p.length}
}

// finish records the outcome of a job with its receipt. It tries until the disk takes it, or ctx ends: a worker
// that waits here takes no more jobs. A job without an outcome then waits again, or ends as interrupted if it had
// begun, when the next daemon starts.
func (d *Daemon) finish(ctx context.Context, r *run, o plasm.Outcome) {
	if r.out != nil {
		if err := r.out.Close(); err != nil {
			d.Log.Error("output may be lost", "job", r.job.ID, "cause", err)
		}
	}
	o.Wait, o.Fetch = max(r.wait, 0), max(r.fetch, 0)
	signed := d.receipt(r, o)
	result := queue.Result{Reason: o.Reason, Detail: o.Detail, ExitCode: o.ExitCode}
	for pause := 100 * time.Millisecond; ; pause = min(2*pause, 10*time.Second) {
		err := d.Queue.Finish(r.job.ID, result, signed)
		if err == nil {
			d.meter.ended(o)
			d.Log.Info("job ended", "job", r.job.ID, "name", r.job.Name, "reason", o.Reason, "exit_code", o.ExitCode, "detail", o.Detail)
			return
		}
		d.Log.Error("outcome not stored", "job", r.job.ID, "cause", err)
		if !file.IsFull(err) {
			return
		}
		select {
		case <-ctx.Done():
			d.Queue.Unclaim(r.job.ID)
			return
		case <-time.After(pause):
		}
	}
}

// receipt returns the signed receipt of an outcome, nil if its values have no place in one, which is logged.
func (d *Daemon) receipt(r *run, o plasm.Outcome) []byte {
	j := r.job
	if r.spec.Limits == (plasm.Limits{}) {
		_ = d.readSpec(r) // an error leaves it empty
	}
	job := r.module
	job.Name = j.Name
	if job.SHA256 == "" {
		job.SHA256 = j.Digest
	}
	if c, err := cid.Decode(j.Module); err == nil && !job.CID.Defined() {
		job.CID = c
	}
	if o.InputSHA256 == "" && j.HasInput && !o.Started.IsZero() { // how much it has read is not known
		o.InputSHA256, o.InputLength = j.Input, j.InputLength
	}
	f := receipt.Facts{
		ID: j.ID, Job: job, Length: j.Length, Spec: r.spec, Outcome: o, Release: d.Release, Root: d.Root, Report: d.Report,
	}
	if u := r.under; u != nil {
		f.Release, f.Root, f.Report = nil, u.Root, u.Report
		if rel := u.Release; rel != nil {
			f.Release = &manifest.Release{Channel: rel.Channel, Arch: rel.Arch, Version: rel.Version, Number: rel.Number, Repository: rel.Repository}
		}
	}
	f.Submitter, _ = hex.DecodeString(j.Key)
	s, err := receipt.New(f).Sign(d.Key, d.Ephemeral)
	if err != nil {
		d.Log.Error("no receipt", "job", j.ID, "cause", err)
		return nil
	}
	return s.Bytes()
}

// interrupted finishes a job that ran when the last daemon ended, with what it had written.
func (d *Daemon) interrupted(j queue.Job) error {
	r := &run{job: j, began: j.Started, stdout: newPart(nil, 0, nil), stderr: newPart(nil, 0, nil)}
	err := d.Queue.Follow(context.Background(), j.ID, false, func(stream int, p []byte) error {
		to := &r.stdout
		if stream == queue.Stderr {
			to = &r.stderr
		}
		to.hash.Write(p)
		to.length += int64(len(p))
		return nil
	})
	if err != nil {
		return err
	}
	o := plasm.Outcome{
		ExitCode: plasm.NoExitCode, Reason: api.ReasonInterrupted, Detail: "the daemon ended while it ran", Started: j.Started,
		Stdout: r.stdout.output(), Stderr: r.stderr.output(),
	}
	_ = d.readSpec(r) // an error leaves it empty
	version := plasm.EngineVersion()
	if u := new(setting); json.Unmarshal(j.Machine, u) == nil {
		r.under, version = u, u.Engine
	}
	o.Engine, o.EngineVersion = known(r.spec.RunsOn(), version)
	r.wait = j.Started.Sub(j.Created)
	o.Wait = max(r.wait, 0)
	d.Log.Warn("job was interrupted", "job", j.ID, "name", j.Name)
	return d.Queue.Finish(j.ID, queue.Result{Reason: o.Reason, Detail: o.Detail, ExitCode: o.ExitCode}, d.receipt(r, o))
}
