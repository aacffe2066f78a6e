package api

import "time"

// Paths of the API. A job has its own below Jobs: Jobs/ID, and Output, Cancel and Receipt below that.
const (
	Prefix  = "/plasm/v1"
	Jobs    = Prefix + "/jobs"
	Output  = "/output"  // GET, Lines as JSON, one a line; ?follow=1 until the job is done
	Cancel  = "/cancel"  // POST
	Receipt = "/receipt" // GET, a DSSE envelope

	StatusPath  = Prefix + "/status"
	OpenAPIPath = Prefix + "/openapi.json"
	MetricsPath = "/metrics"
)

// Names of the parts of a submission.
const (
	PartOrder  = "order"  // DSSE envelope of a signed order
	PartJob    = "job"    // Request as JSON; only on the socket of the machine
	PartModule = "module" // bytes of the module
	PartInput  = "input"  // bytes of stdin
)

// DefaultSocket is where a daemon listens on its own machine.
const DefaultSocket = "/run/plasm/plasmd.sock"

// Largest parts of a submission that a daemon accepts unless its operator says otherwise, in bytes.
const (
	MaxOrder  = 128 << 10 // order or job
	MaxModule = 32 << 20
	MaxInput  = 16 << 20
)

// States of a job.
const (
	StateQueued   = "queued"   // accepted; waits for a worker
	StateFetching = "fetching" // its module is fetched
	StateRunning  = "running"
	StateDone     = "done" // has an outcome, which does not change
)

// Reasons for the end of a job that no run of it gives. The others are the Reason constants of package
// plasm.
const (
	ReasonInterrupted = "interrupted" // the daemon ended while it ran
	ReasonCancelled   = "cancelled"
	ReasonUnreachable = "unreachable" // no source sent its module in time
	ReasonCorrupt     = "corrupt"     // its module is no WASI command or not the one that it names, or an artifact is damaged
	ReasonExpired     = "expired"     // it waited longer than its order allows
	ReasonNotRun      = "not-run"     // an artifact is missing, or nothing could be started
)

// A Job is a job that the daemon has accepted. Times are UTC.
type Job struct {
	ID        string    `json:"id"` // 64 lower-case hex digits
	Name      string    `json:"name"`
	State     string    `json:"state"`                // one of the State constants
	Submitter string    `json:"submitter,omitempty"`  // as the release names it; empty for the socket of the machine
	Module    string    `json:"module_cid,omitempty"` // CID of the module, once it is known
	Role      string    `json:"role,omitempty"`       // of the module in the release
	Created   time.Time `json:"created"`              // accepted
	Started   time.Time `json:"started,omitzero"`     // the module ran
	Ended     time.Time `json:"ended,omitzero"`
	Reason    string    `json:"reason,omitempty"` // of the end; empty before it
	ExitCode  int64     `json:"exit_code"`        // -1 until it exits, and if it never does
	Detail    string    `json:"detail,omitempty"` // explains the reason to a person
	Machine   string    `json:"machine"`          // 64 hex digits: key of the machine
}

// List is the answer to GET of Jobs: the newest first.
type List struct {
	Jobs []Job `json:"jobs"`
}

// A Line is a part of a job's output. Data is base64 in JSON.
type Line struct {
	Stream string `json:"stream"` // "stdout" or "stderr"
	Data   []byte `json:"data"`
}

// Streams of a Line.
const (
	Stdout = "stdout"
	Stderr = "stderr"
)

// A Release is the release that the machine runs.
type Release struct {
	Channel string `json:"channel"`
	Arch    string `json:"arch"`
	Version string `json:"release"`
	Number  int64  `json:"number"`

	Repository string `json:"repository,omitempty"` // ID, "" when the repository has none
}

// Status describes a daemon.
type Status struct {
	Machine    string    `json:"machine"`           // 64 hex digits: key of the machine
	Ephemeral  bool      `json:"ephemeral"`         // the key ends with this boot
	Peer       string    `json:"peer,omitempty"`    // libp2p peer ID; empty when the daemon is not on the network
	Listen     []string  `json:"listen,omitempty"`  // multiaddrs with /p2p/ID
	Release    *Release  `json:"release,omitempty"` // nil without a release
	Submitters []string  `json:"submitters"`        // names of those whose orders are accepted
	Groups     []string  `json:"groups,omitempty"`  // groups that the machine belongs to
	Private    bool      `json:"private"`           // nothing is written to a disk
	Workers    int       `json:"workers"`           // jobs that may run at once
	Running    int       `json:"running"`           // jobs of workers
	Queued     int       `json:"queued"`            // jobs that wait
	QueueLimit int       `json:"queue_limit"`       // jobs that may wait
	Stored     int       `json:"stored"`            // jobs that the daemon knows, those that are done included
	Started    time.Time `json:"started"`           // of the daemon
	Now        time.Time `json:"now"`               // clock of the machine, by which dates of orders are judged
	Version    string    `json:"version"`           // of plasmd
}

// An Error is the answer to a request that was refused.
type Error struct {
	Text     string `json:"error"`     // one line
	ExitCode int    `json:"exit_code"` // of the command that asked
}

func (e *Error) Error() string { return e.Text }
