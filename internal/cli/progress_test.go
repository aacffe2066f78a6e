package cli

import (
	"bytes"
	"io"
	"strings"
	"sync"
	"testing"
	"time"
)

func TestProgressWords(t *testing.T) {
	tests := []struct {
		done, total int64
		took        time.Duration
		want        string
	}{
		{0, 1 << 20, time.Second, "0%, 0 B of 1.0 MiB"},
		{1 << 20, 4 << 20, 2 * time.Second, "25%, 1.0 MiB of 4.0 MiB, 512 KiB/s, 6s left"},
		{4 << 20, 4 << 20, 2 * time.Second, "100%, 4.0 MiB of 4.0 MiB, 2.0 MiB/s"},
		{5 << 20, 4 << 20, 2 * time.Second, "100%, 5.0 MiB of 4.0 MiB, 2.5 MiB/s"},
		{0, 0, 0, "100%, 0 B of 0 B"},
		{1, 2, 0, "50%, 1 B of 2 B"},
		{1 << 20, 1 << 40, time.Second, "0%, 1.0 MiB of 1.0 TiB, 1.0 MiB/s, 291h16m15s left"},
	}
	for _, tt := range tests {
		if got := ProgressText(tt.done, tt.total, tt.took); got != tt.want {
			t.Errorf("got %q, want %q", got, tt.want)
		}
	}
}

// lines is a writer with a channel that receives after a write.
type lines struct {
	mu      sync.Mutex
	buf     bytes.Buffer
	written chan struct{}
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.buf.Write(p)
	select {
	case l.written <- struct{}{}:
	default:
	}
	return len(p), nil
}

// A reader in progress has a line at each tick; a closed one has none.
func TestProgressIsALineWithoutATerminal(t *testing.T) {
	out := &lines{written: make(chan struct{}, 1)}
	tick := time.NewTicker(time.Hour)
	p := newLines(out, tick)
	defer p.Close()
	ended := p.Watch("kernel", 10, strings.NewReader("0123456789"))
	if err := ended.Close(); err != nil {
		t.Fatal(err)
	}
	file := p.Watch("rootfs", 4, strings.NewReader("0123"))
	if _, err := io.ReadFull(file, make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	p.Count("files")(3, 7)
	p.Bytes("fsck")(2, 4)
	tick.Reset(time.Millisecond)
	<-out.written
	p.Close()
	out.mu.Lock()
	defer out.mu.Unlock()
	first, rest, _ := strings.Cut(out.buf.String(), "\n")
	if !strings.HasPrefix(first, "rootfs: 25%, 1 B of 4 B, ") || !strings.HasSuffix(first, " left") {
		t.Errorf("the first line is %q", first)
	}
	if rest != "" && !strings.HasPrefix(rest, "files: 3 of 7\n") || strings.Count(rest, "fsck: ") != strings.Count(rest, "fsck: 50%, 2 B of 4 B, ") || strings.Contains(out.buf.String(), "kernel") {
		t.Errorf("after it %q", rest)
	}
}

// Work without a size has its state and its time; a terminal is not needed.
func TestAStateIsALineWithoutATerminal(t *testing.T) {
	out := &lines{written: make(chan struct{}, 1)}
	tick := time.NewTicker(time.Hour)
	p := newLines(out, tick)
	defer p.Close()
	_, end := p.State("one", "queued")
	end()
	state, _ := p.State("two", "queued")
	state("running")
	tick.Reset(time.Millisecond)
	<-out.written
	p.Close()
	out.mu.Lock()
	defer out.mu.Unlock()
	if first, _, _ := strings.Cut(out.buf.String(), "\n"); first != "two: running, 0s" || strings.Contains(out.buf.String(), "one") {
		t.Errorf("got %q", out.buf.String())
	}
}
