package plasm

import "time"

// NoExitCode is the exit code of a job that did not exit.
const NoExitCode = -1

// Isolation constants name what separates the process of a job from the host, in addition to the limits
// of memory, time and files that every process has.
const (
	IsolationCgroup     = "cgroup"     // a control group of its own
	IsolationNamespaces = "namespaces" // an empty file system and no network
	IsolationSeccomp    = "seccomp"    // only the system calls that the engine needs
)

// An Outcome is the result of one run of a job.
type Outcome struct {
	Started       time.Time
	Wait          time.Duration // from the acceptance to the start; set by a caller that has a queue
	Fetch         time.Duration // of it, for the module; set by a caller that fetches
	Compile       time.Duration // from Started to the first instruction of the job; the whole time of a job that did not run
	Run           time.Duration // from there to the end of its process
	MemoryPeak    int64         // bytes of linear memory, high-water
	CPU           time.Duration // processor time of the job's process, its start included
	ExitCode      int64         // 0 to 2^32-1, or NoExitCode
	Reason        string        // one of the Reason constants
	Detail        string        // explains the reason to a person; quoted and capped
	Stdout        Output
	Stderr        Output
	Output        Output   // both, in the order of writing
	InputSHA256   string   // of the first InputLength bytes of stdin, 64 lower-case hex digits
	InputLength   int64    // bytes of stdin that the job read, or that were handed to its process if that was killed
	Engine        string   // EngineInterpreter or EngineCompiler
	EngineVersion string   // see EngineVersion
	Isolation     []string // Isolation constants that applied
}

// Output describes what a job wrote, or read.
type Output struct {
	SHA256    string `json:"sha256"` // 64 lower-case hex digits
	Length    int64  `json:"length"` // bytes
	Truncated bool   `json:"truncated"`
}

// OK reports whether the job exited with code 0.
func (o Outcome) OK() bool { return o.Reason == ReasonExit && o.ExitCode == 0 }

// Duration returns how long the job took, as the host measured it, compilation included.
func (o Outcome) Duration() time.Duration { return o.Compile + o.Run }
