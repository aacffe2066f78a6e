package report

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// A Step is one named part of the work. At is its offset from the start.
type Step struct {
	Name  string `json:"name"`
	At    Millis `json:"at_ms"`
	Took  Millis `json:"took_ms"`
	Words string `json:"words,omitempty"`
	Error string `json:"error,omitempty"`
	// Memory is the most memory of the machine that was in use, the payload included. It is sampled.
	Memory int64 `json:"memory_bytes,omitempty"`

	report *Report
	ended  bool
}

// Begin starts a step. The step is printed when it ends.
func (r *Report) Begin(name string) *Step {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := &Step{Name: name, At: Millis(time.Since(r.start)), report: r}
	r.data.Steps = append(r.data.Steps, s)
	r.sample()
	if r.display != nil {
		r.display.Begin(time.Duration(s.At), Clean(name))
	}
	return s
}

// Done ends a step with its result.
func (s *Step) Done(format string, args ...any) {
	words := Clean(fmt.Sprintf(format, args...))
	s.end(words, "", OK, words)
}

// Fail ends a step with its error and returns that error.
func (s *Step) Fail(err error) error {
	reason := Clean(err.Error())
	s.end("", reason, Failed, "failed: "+reason)
	return err
}

// FailOptional is Fail for a step without which the work continues.
func (s *Step) FailOptional(err error) {
	reason := Clean(err.Error())
	s.end("", reason, Warning, "failed: "+reason)
}

// Abort is Fail for an error that ends the whole boot. It does not print the cause, which the
// caller prints at the end.
func (s *Step) Abort(err error) error {
	line := "failed"
	if errors.Is(err, context.Canceled) {
		line = "interrupted"
	}
	s.end("", Clean(err.Error()), Failed, line)
	return err
}

// end records the result or the reason of the failure, and prints the line behind the step's name.
func (s *Step) end(words, reason string, level Level, line string) {
	r := s.report
	r.mu.Lock()
	defer r.mu.Unlock()
	s.Took = Millis(time.Since(r.start)) - s.At
	r.sample()
	s.Words, s.Error, s.ended = words, reason, true
	r.print(Line{Step: s.Name, Level: level, Text: s.Name + ": " + line})
}
