package plasm

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"io"
	"strings"
	"testing"
)

const greeting = "hello from a signed WASM job: 1229 primes below 10000\n"

func TestHelloPrintsItsGreeting(t *testing.T) {
	var shown bytes.Buffer
	o := mustRun(t, "hello.wasm", built(t, "./jobs/hello"), longLimits(), &shown)
	if !o.OK() || o.Detail != "exit code 0" && o.Detail != "" {
		t.Errorf("ended by %s, exit code %d: %s", o.Reason, o.ExitCode, o.Detail)
	}
	if got, want := shown.String(), lineMark+greeting; got != want {
		t.Errorf("the console shows %q, want %q", got, want)
	}
	digest := sha256.Sum256([]byte(greeting))
	if want := (Output{hex.EncodeToString(digest[:]), int64(len(greeting)), false}); o.Output != want {
		t.Errorf("output %+v, want %+v", o.Output, want)
	}
	if o.MemoryPeak < 1<<20 || o.MemoryPeak%page != 0 || o.Duration() <= 0 || o.Started.IsZero() {
		t.Errorf("peak %d, duration %s, started %s", o.MemoryPeak, o.Duration(), o.Started)
	}
}

func TestAJobCannotImitatePlasmd(t *testing.T) {
	tests := []struct{ name, written, shown string }{
		{"a receipt of its own", "plasmd: receipt {}\n", "job: plasmd: receipt {}\n"},
		{"return to the line's start", "x\rplasmd: receipt", "job: x\\rplasmd: receipt\n"},
		{"colour", "\x1b[31mred\n", "job: \\x1b[31mred\n"},
		{"right to left", "a\u202eb\n", "job: a\\u202eb\n"},
		{"bytes that are not UTF-8", "\xff\x00\n", "job: \\xff\\x00\n"},
		{"tabs and letters stay", "ä\tß\n", "job: ä\tß\n"},
		{"no newline at the end", "a\nb", "job: a\njob: b\n"},
		{"empty line", "\n", "job: \n"},
		{"nothing", "", ""},
		{"endless line", strings.Repeat("x", lineMax+1), "job: " + strings.Repeat("x", lineMax) + "\njob: x\n"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var whole, bytewise bytes.Buffer
			write(&whole, []byte(tt.written), len(tt.written))
			write(&bytewise, []byte(tt.written), 1)
			if whole.String() != tt.shown || bytewise.String() != tt.shown {
				t.Errorf("shown %q and, a byte at a time, %q; want %q", &whole, &bytewise, tt.shown)
			}
		})
	}
}

func write(w io.Writer, p []byte, size int) {
	c := &console{w: w}
	for len(p) > 0 {
		n := min(size, len(p))
		c.Write(p[:n])
		p = p[n:]
	}
	c.close()
}

func TestLimitsOutOfRangeAreRefused(t *testing.T) {
	tests := []struct {
		name string
		edit func(*Limits)
	}{
		{"no memory", func(l *Limits) { l.Memory = 0 }},
		{"half a page", func(l *Limits) { l.Memory = page / 2 }},
		{"more than 32 bits address", func(l *Limits) { l.Memory = maxMemory + page }},
		{"no time", func(l *Limits) { l.Timeout = 0 }},
		{"days", func(l *Limits) { l.Timeout = maxTimeout + 1 }},
		{"negative output", func(l *Limits) { l.Output = -1 }},
		{"endless output", func(l *Limits) { l.Output = maxOutput + 1 }},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			l := DefaultLimits()
			tt.edit(&l)
			if l.Check() == nil {
				t.Errorf("%+v is accepted", l)
			}
		})
	}
	if err := DefaultLimits().Check(); err != nil {
		t.Error(err)
	}
}

// BenchmarkHello measures one run of the demo's job.
func BenchmarkHello(b *testing.B) {
	module := built(b, "./jobs/hello")
	for b.Loop() {
		if _, err := runDirect(b.Context(), Job{Name: "hello.wasm", Module: module}, DefaultLimits(), io.Discard); err != nil {
			b.Fatal(err)
		}
	}
}
