package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// output runs a command and returns its stdout; its stderr is in the error.
func output(ctx context.Context, name string, args ...string) ([]byte, error) {
	out, err := exec.CommandContext(ctx, name, args...).Output()
	if exit := new(exec.ExitError); errors.As(err, &exit) {
		return out, fmt.Errorf("%s %s: %w: %s", filepath.Base(name), strings.Join(args, " "), err, tail(exit.Stderr))
	}
	if errors.Is(err, exec.ErrNotFound) {
		return nil, fmt.Errorf("%w; run: scripts/deps-check.sh --install bench-net", err)
	}
	return out, err
}

func tail(text []byte) []byte {
	text = bytes.TrimSpace(text)
	return text[max(len(text)-600, 0):]
}

// A process runs in a namespace until it ends or is stopped.
type process struct {
	*exec.Cmd
	name  string
	out   *bufio.Reader
	log   logTail
	begun time.Time
	ended time.Time     // valid once done is closed
	done  chan struct{} // closed at its end
	err   error
}

// logTail keeps the last 32 to 64 KiB of a process's stderr.
type logTail struct {
	mu   sync.Mutex
	text []byte
}

func (l *logTail) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.text = append(l.text, p...)
	if len(l.text) > 64<<10 {
		l.text = append([]byte(nil), l.text[32<<10:]...)
	}
	return len(p), nil
}

func (l *logTail) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return string(tail(l.text))
}

// start starts a command in a namespace, "" for the namespace of the tool. With a barrier,
// the command runs when the barrier is released.
func start(ctx context.Context, ns string, gate *barrier, name string, args ...string) (*process, error) {
	line := append([]string{name}, args...)
	if gate != nil {
		line = append([]string{"sh", "-c", `read _; exec "$@"`, "sh"}, line...)
	}
	if ns != "" {
		line = append([]string{"ip", "netns", "exec", ns}, line...)
	}
	p := &process{Cmd: exec.CommandContext(ctx, line[0], line[1:]...), name: filepath.Base(name), done: make(chan struct{})}
	p.Stderr = &p.log
	if gate != nil {
		p.Stdin = gate.wait
	}
	stdout, err := p.StdoutPipe()
	if err != nil {
		return nil, err
	}
	p.out = bufio.NewReaderSize(stdout, 1<<20)
	p.begun = time.Now()
	if err := p.Start(); err != nil {
		return nil, fmt.Errorf("%w; run: make binaries, and scripts/deps-check.sh --install bench-net", err)
	}
	return p, nil
}

// finish discards the rest of the process's stdout and waits for its end.
func (p *process) finish() error {
	io.Copy(io.Discard, p.out)
	p.err = p.Wait()
	p.ended = time.Now()
	close(p.done)
	if p.err != nil {
		return fmt.Errorf("%s: %w: %s", p.name, p.err, p.log.String())
	}
	return nil
}

// stop ends a daemon, also a stopped one, and waits for it.
func (p *process) stop() {
	p.Process.Signal(syscall.SIGCONT)
	p.Process.Signal(syscall.SIGTERM)
	kill := time.AfterFunc(5*time.Second, func() { p.Process.Kill() })
	defer kill.Stop()
	p.finish()
}

// readyLine is the line that our daemons print when they serve.
type readyLine struct {
	Peer   string   `json:"peer"`
	HTTP   []string `json:"http"`
	Listen []string `json:"listen"`
}

// ready waits for that line.
func (p *process) ready() (readyLine, error) {
	var r readyLine
	kill := time.AfterFunc(time.Minute, func() { p.Process.Kill() })
	defer kill.Stop()
	line, err := p.out.ReadBytes('\n')
	if err == nil {
		err = json.Unmarshal(line, &r)
	}
	if err != nil {
		return r, fmt.Errorf("%s: not ready: %w: %s", p.name, err, p.log.String())
	}
	return r, nil
}

// cpuTime returns the processor time of a process that has ended.
func (p *process) cpuTime() time.Duration {
	return p.ProcessState.UserTime() + p.ProcessState.SystemTime()
}

// cpuTimeSoFar returns the processor time of a running process, in steps of 10 ms.
func (p *process) cpuTimeSoFar() time.Duration {
	text := read(fmt.Sprintf("/proc/%d/stat", p.Process.Pid))
	fields := strings.Fields(text[strings.LastIndexByte(text, ')')+1:])
	if len(fields) < 13 {
		return 0
	}
	user, _ := strconv.Atoi(fields[11])
	system, _ := strconv.Atoi(fields[12])
	return time.Duration(user+system) * 10 * time.Millisecond
}

// peakMemory waits for the end of a process and returns the most memory that it had, in bytes. It looks
// often, because the value of wait4 includes the memory of this tool before exec.
func (p *process) peakMemory() (peak int64) {
	for {
		select {
		case <-p.done:
			return peak
		case <-time.After(20 * time.Millisecond):
		}
		for line := range strings.Lines(read(fmt.Sprintf("/proc/%d/status", p.Process.Pid))) {
			if text, ok := strings.CutPrefix(line, "VmHWM:"); ok {
				n, _ := strconv.ParseInt(strings.Fields(text)[0], 10, 64)
				peak = max(peak, n<<10)
			}
		}
	}
}

// A barrier makes processes wait, and starts them all at once.
type barrier struct {
	wait, open *os.File
}

func newBarrier() (*barrier, error) {
	r, w, err := os.Pipe()
	return &barrier{r, w}, err
}

// release starts all processes and returns the time.
func (g *barrier) release() time.Time {
	g.open.Close()
	now := time.Now()
	g.wait.Close()
	return now
}
