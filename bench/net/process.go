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
	log   noise
	begun time.Time
	ended time.Time     // valid once done is closed
	done  chan struct{} // closed at its end
	err   error
}

// noise keeps the end of what a process says.
type noise struct {
	mu   sync.Mutex
	text []byte
}

func (n *noise) Write(p []byte) (int, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.text = append(n.text, p...)
	if len(n.text) > 64<<10 {
		n.text = append([]byte(nil), n.text[32<<10:]...)
	}
	return len(p), nil
}

func (n *noise) String() string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return string(tail(n.text))
}

// start runs a command in a namespace, "" for that of the tool. With a gate it waits
// until that is opened; begun is the moment of start else.
func start(ctx context.Context, ns string, gate *gate, name string, args ...string) (*process, error) {
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

// finish waits for the end of a process that nobody reads from any more.
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

// stop ends a daemon and waits for it. Whatever it was sent to sleep by, it wakes.
func (p *process) stop() {
	p.Process.Signal(syscall.SIGCONT)
	p.Process.Signal(syscall.SIGTERM)
	kill := time.AfterFunc(5*time.Second, func() { p.Process.Kill() })
	defer kill.Stop()
	p.finish()
}

// readyLine is what a daemon of ours prints when it serves.
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
		return r, fmt.Errorf("%s is not ready: %w: %s", p.name, err, p.log.String())
	}
	return r, nil
}

// spent is the processor time of a process that has ended.
func (p *process) spent() time.Duration {
	return p.ProcessState.UserTime() + p.ProcessState.SystemTime()
}

// spending is that of one that runs, in steps of 10 ms.
func (p *process) spending() time.Duration {
	text := read(fmt.Sprintf("/proc/%d/stat", p.Process.Pid))
	fields := strings.Fields(text[strings.LastIndexByte(text, ')')+1:])
	if len(fields) < 13 {
		return 0
	}
	user, _ := strconv.Atoi(fields[11])
	system, _ := strconv.Atoi(fields[12])
	return time.Duration(user+system) * 10 * time.Millisecond
}

// A gate holds processes back until it is opened for all at once.
type gate struct {
	wait, open *os.File
}

func newGate() (*gate, error) {
	r, w, err := os.Pipe()
	return &gate{r, w}, err
}

// release lets everybody go.
func (g *gate) release() time.Time {
	g.open.Close()
	now := time.Now()
	g.wait.Close()
	return now
}
