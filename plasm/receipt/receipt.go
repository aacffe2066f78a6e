package receipt

import (
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/hex"
	"strings"
	"time"

	"github.com/phaseboot/phaseboot/manifest"
	"github.com/phaseboot/phaseboot/plasm"
)

// Types of the statement. PredicateType leads to the document that defines the predicate.
const (
	StatementType = "https://in-toto.io/Statement/v1"
	PredicateType = "https://github.com/phaseboot/phaseboot/blob/main/docs/PLASM.md#receipt-v2"
)

// Names of the subjects.
const (
	Stdout = "stdout"
	Stderr = "stderr"
)

// A Receipt is the statement of a machine about a run. Its subjects are stdout and stderr of the job.
type Receipt struct {
	Type          string    `json:"_type"`
	Subject       []Subject `json:"subject"`
	PredicateType string    `json:"predicateType"`
	Run           Run       `json:"predicate"`
}

// A Subject is an output of the job with its digest (in-toto ResourceDescriptor).
type Subject struct {
	Name        string `json:"name"`
	Digest      Digest `json:"digest"`
	Annotations Extent `json:"annotations"`
}

// A Digest is a SHA-256 in 64 lower-case hex digits.
type Digest struct {
	SHA256 string `json:"sha256"`
}

// An Extent says how much a job wrote. Truncated means that it would have written more than its limit.
type Extent struct {
	Length    int64 `json:"length"` // bytes
	Truncated bool  `json:"truncated"`
}

// A Run is the predicate: what ran, and how it ended. Durations are in milliseconds.
type Run struct {
	ID         string     `json:"id,omitempty"` // of the job, 64 hex digits; with a submitter it is the SHA-256 of the payload of the order
	Name       string     `json:"name"`         // first argument of the job
	Module     Module     `json:"module"`
	Spec       plasm.Spec `json:"spec"` // arguments, grants and limits as they were enforced
	Input      Input      `json:"input"`
	Engine     Engine     `json:"engine,omitzero"`     // absent if nothing ran, or if the daemon ended before it could record it
	Isolation  []string   `json:"isolation,omitempty"` // Isolation constants of plasm
	Started    time.Time  `json:"started,omitzero"`    // UTC, whole seconds; absent if nothing ran
	Durations  Durations  `json:"durations"`
	MemoryPeak int64      `json:"memory_peak_bytes"` // linear memory
	CPU        int64      `json:"cpu_ms"`
	Reason     string     `json:"reason"`    // a Reason constant of plasm, or of plasm/api
	ExitCode   int64      `json:"exit_code"` // plasm.NoExitCode if the job did not exit
	Submitter  string     `json:"submitter,omitempty"`
	Release    *Release   `json:"release,omitempty"` // of the machine; absent without one
	Report     string     `json:"boot_report_sha256,omitempty"`
	Machine    Machine    `json:"machine"`
}

// A Module identifies the module. Digest and length are absent if the machine never had it.
type Module struct {
	CID    string `json:"cid,omitempty"`
	SHA256 string `json:"sha256,omitempty"`
	Length int64  `json:"length,omitempty"` // bytes
}

// An Input is what the job read on stdin: the first bytes of what it was given, perhaps not all of them.
type Input struct {
	SHA256 string `json:"sha256"` // 64 lower-case hex digits
	Length int64  `json:"length"` // bytes
}

// Begins reports whether what the job read is the beginning of data.
func (i Input) Begins(data []byte) bool {
	if i.Length < 0 || i.Length > int64(len(data)) {
		return false
	}
	sum := sha256.Sum256(data[:i.Length])
	return hex.EncodeToString(sum[:]) == i.SHA256
}

// An Engine is what ran the module.
type Engine struct {
	Name    string `json:"name"` // an Engine constant of plasm
	Version string `json:"version"`
}

// Durations are the parts of the time from the acceptance of a job to its end. Fetch is a part of Wait.
type Durations struct {
	Wait    int64 `json:"wait_ms"`
	Fetch   int64 `json:"fetch_ms"`
	Compile int64 `json:"compile_ms"`
	Run     int64 `json:"run_ms"`
}

// A Release identifies the signed release that the machine runs.
type Release struct {
	Channel    string `json:"channel"`
	Arch       string `json:"arch"`
	Version    string `json:"version"`
	Number     int64  `json:"role_version"`           // TUF version of the role
	Repository string `json:"repository,omitempty"`   // ID
	Root       int64  `json:"root_version,omitempty"` // TUF version of the newest root, if the machine knows it
}

// A Machine is the key that signed.
type Machine struct {
	Key       string `json:"ed25519"`   // 64 lower-case hex digits
	Ephemeral bool   `json:"ephemeral"` // the key ends with this boot or run
}

// Facts are what a receipt states. Job, Spec and Outcome are needed; the others may be zero.
type Facts struct {
	ID        string            // of the job
	Job       plasm.Job         // Module may be nil, with Length for its size
	Length    int64             // bytes of the module, 0 for that of Job
	Spec      plasm.Spec        // as it was enforced
	Outcome   plasm.Outcome     // without Started and Engine if nothing ran
	Submitter ed25519.PublicKey // who signed the order; nil for a job from the machine itself
	Release   *manifest.Release // of the machine
	Root      int64             // TUF version of its root
	Report    string            // SHA-256 of the boot report, in hex
}

// emptySHA256 is the SHA-256 of no bytes.
const emptySHA256 = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"

// New returns an unsigned receipt.
func New(f Facts) Receipt {
	o := f.Outcome
	r := Run{
		ID: f.ID, Name: strings.ToValidUTF8(f.Job.Name, "\ufffd"),
		Module: Module{SHA256: f.Job.SHA256, Length: f.Length},
		Spec:   f.Spec, Input: Input{o.InputSHA256, o.InputLength}, Engine: Engine{o.Engine, o.EngineVersion}, Isolation: o.Isolation,
		Durations:  Durations{o.Wait.Milliseconds(), o.Fetch.Milliseconds(), o.Compile.Milliseconds(), o.Run.Milliseconds()},
		MemoryPeak: o.MemoryPeak, CPU: o.CPU.Milliseconds(),
		Reason: o.Reason, ExitCode: o.ExitCode,
		Submitter: hex.EncodeToString(f.Submitter), Report: f.Report,
	}
	if f.Job.CID.Defined() {
		r.Module.CID = f.Job.CID.String()
	}
	if f.Job.Module != nil {
		r.Module.Length = int64(len(f.Job.Module))
	}
	if r.Input == (Input{}) {
		r.Input.SHA256 = emptySHA256
	}
	if !o.Started.IsZero() {
		r.Started = o.Started.UTC().Truncate(time.Second)
	}
	if rel := f.Release; rel != nil {
		r.Release = &Release{rel.Channel, rel.Arch, rel.Version, rel.Number, rel.Repository, f.Root}
	}
	return Receipt{StatementType, []Subject{subject(Stdout, o.Stdout), subject(Stderr, o.Stderr)}, PredicateType, r}
}

// subject describes an output. A job that never ran wrote nothing.
func subject(name string, o plasm.Output) Subject {
	if o.SHA256 == "" && o.Length == 0 {
		o.SHA256 = emptySHA256
	}
	return Subject{name, Digest{o.SHA256}, Extent{o.Length, o.Truncated}}
}

// Output returns the subject Stdout or Stderr.
func (r Receipt) Output(name string) plasm.Output {
	for _, s := range r.Subject {
		if s.Name == name {
			return plasm.Output{SHA256: s.Digest.SHA256, Length: s.Annotations.Length, Truncated: s.Annotations.Truncated}
		}
	}
	return plasm.Output{}
}
