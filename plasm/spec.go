package plasm

import (
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"
	"unicode/utf8"
)

// Engines of a Spec. An empty name lets the time limit decide.
const (
	EngineInterpreter = "interpreter" // starts at once, runs slowly
	EngineCompiler    = "compiler"    // translates the module to machine code first
)

// A Spec is what a job asks for. A submitter signs it as a part of an order, and the receipt repeats it.
type Spec struct {
	Args   []string          `json:"args,omitempty"` // after the name of the job
	Env    map[string]string `json:"env,omitempty"`
	Grants Grants            `json:"grants"`
	Limits Limits            `json:"limits"`
	Engine string            `json:"engine,omitempty"` // EngineInterpreter, EngineCompiler, or empty
}

// Grants are the parts of the host that a job may use. The zero value grants nothing.
type Grants struct {
	Stdin     bool     `json:"stdin,omitempty"`
	Scratch   int64    `json:"scratch_bytes,omitempty"` // size of the folder /scratch, in memory; 0 for none
	Artifacts []string `json:"artifacts,omitempty"`     // roles of the release, read-only at /artifacts/ROLE
	Clock     bool     `json:"clock,omitempty"`         // the clock of the machine; without it, a clock that starts at a fixed time
	Random    bool     `json:"random,omitempty"`        // random numbers of the machine; without it, a fixed sequence
}

// IO connects a job with its caller. A nil writer discards, and a nil Stdin is empty.
type IO struct {
	Stdin  io.Reader // read only with the grant
	Stdout io.Writer
	Stderr io.Writer

	// Artifacts opens an artifact of the release by its role. It is called for the roles of
	// Grants.Artifacts before the job starts. nil has no artifacts.
	Artifacts func(role string) (*os.File, error)
}

// Maximum values of a Spec.
const (
	maxArgs      = 256 // arguments, and variables of the environment
	maxArgBytes  = 32 << 10
	maxScratch   = 1 << 30 // bytes
	maxArtifacts = 16
)

// DefaultSpec returns a spec without grants and with the default limits.
func DefaultSpec() Spec { return Spec{Limits: DefaultLimits()} }

// Deterministic reports whether every run with the same module, arguments and input has the same output.
func (s Spec) Deterministic() bool { return !s.Grants.Clock && !s.Grants.Random }

// RunsOn returns the engine that Process.Run chooses for the spec, empty if that depends on whether code of
// the module is stored.
func (s Spec) RunsOn() string {
	if engine := engineFor(s, false); engine == engineFor(s, true) {
		return engine
	}
	return ""
}

// Check returns an error for a value outside the possible range.
func (s Spec) Check() error {
	size := 0
	for _, arg := range s.Args {
		size += len(arg) + 1
		if !isText(arg) {
			return fmt.Errorf("argument %.40q: %w: it has a zero byte or is not UTF-8; remove it", arg, fs.ErrInvalid)
		}
	}
	for name, value := range s.Env {
		size += len(name) + len(value) + 2
		if name == "" || strings.Contains(name, "=") || !isText(name) || !isText(value) {
			return fmt.Errorf("environment variable %.40q: %w: give NAME=VALUE in UTF-8 without a zero byte", name, fs.ErrInvalid)
		}
	}
	switch {
	case len(s.Args) > maxArgs || len(s.Env) > maxArgs:
		return fmt.Errorf("arguments: %w: %d arguments and %d variables; give at most %d of each", fs.ErrInvalid, len(s.Args), len(s.Env), maxArgs)
	case size > maxArgBytes:
		return fmt.Errorf("arguments: %w: %d bytes with the environment; give at most %d, and the rest on stdin", fs.ErrInvalid, size, maxArgBytes)
	case s.Engine != "" && s.Engine != EngineInterpreter && s.Engine != EngineCompiler:
		return fmt.Errorf("engine %.40q: %w: give %s or %s", s.Engine, fs.ErrInvalid, EngineInterpreter, EngineCompiler)
	}
	if err := s.Grants.check(); err != nil {
		return err
	}
	return s.Limits.Check()
}

// isText reports whether a C program and JSON can have a string.
func isText(s string) bool { return utf8.ValidString(s) && !strings.ContainsRune(s, 0) }

func (g Grants) check() error {
	if g.Scratch < 0 || g.Scratch > maxScratch || g.Scratch%page != 0 {
		return fmt.Errorf("scratch folder: %w: %d bytes; give a multiple of 64K up to 1G", fs.ErrInvalid, g.Scratch)
	}
	if len(g.Artifacts) > maxArtifacts {
		return fmt.Errorf("artifacts: %w: %d roles; give at most %d", fs.ErrInvalid, len(g.Artifacts), maxArtifacts)
	}
	for i, role := range g.Artifacts {
		if !fs.ValidPath(role) || role == "." || path.Clean(role) != role || strings.ContainsRune(role, 0) || len(role) > 200 {
			return fmt.Errorf("artifact %.60q: %w: give a role of the release", role, fs.ErrInvalid)
		}
		for _, other := range g.Artifacts[:i] {
			if role == other || strings.HasPrefix(role, other+"/") || strings.HasPrefix(other, role+"/") {
				return fmt.Errorf("artifact %.60q: %w: it is named twice, or is a folder of %.60q; give each role once", role, fs.ErrInvalid, other)
			}
		}
	}
	return nil
}
