package pubtest

import (
	"bytes"
	"log/slog"
	"os"
	"strings"
	"sync"
	"testing"
	"time"
)

// Patience is how long an event may take on a loaded machine.
const Patience = time.Minute

// A Log is the log of a daemon. A test can wait for its lines.
type Log struct {
	mu    sync.Mutex
	text  bytes.Buffer
	grown chan struct{}
}

// NewLog makes an empty log.
func NewLog() *Log { return &Log{grown: make(chan struct{})} }

// Write implements io.Writer.
func (l *Log) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	close(l.grown)
	l.grown = make(chan struct{})
	return l.text.Write(p)
}

// Logger writes to the log.
func (l *Log) Logger() *slog.Logger { return slog.New(slog.NewTextHandler(l, nil)) }

// String is the log so far.
func (l *Log) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// Wait returns when n lines have all of the texts.
func (l *Log) Wait(t *testing.T, n int, texts ...string) {
	t.Helper()
	limit := time.After(Patience)
	for {
		l.mu.Lock()
		text, grown := l.text.String(), l.grown
		l.mu.Unlock()
		if count(text, texts) >= n {
			return
		}
		select {
		case <-grown:
		case <-limit:
			t.Fatalf("no %d lines with %q in the log:\n%s", n, texts, text)
		}
	}
}

func count(log string, texts []string) (n int) {
lines:
	for line := range strings.Lines(log) {
		for _, text := range texts {
			if !strings.Contains(line, text) {
				continue lines
			}
		}
		n++
	}
	return n
}

// VerboseLog is the log of a daemon in a verbose test.
func VerboseLog(t *testing.T) *slog.Logger {
	if !testing.Verbose() {
		return nil
	}
	return slog.New(slog.NewTextHandler(os.Stderr, nil))
}
