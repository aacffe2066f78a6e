package e2e

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// bootDeadline bounds one boot from firmware to receipt without KVM on a busy machine.
const bootDeadline = 12 * time.Minute

// theCard is the netdev of scripts/test-qemu-x86.sh.
const theCard = "net0"

// A machine is a QEMU process that boots an image under UEFI; console is its serial line.
type machine struct {
	t       *testing.T
	process *os.Process
	console *console
	serial  io.Writer // input of the serial line
	ended   chan struct{}
	limit   time.Duration // of each wait for a text
}

// image builds an image of this segment with more arguments of phase-image.
func (l *lan) image(more ...string) string {
	l.t.Helper()
	name := filepath.Join(l.dir, "own.img")
	must(l.t, fx.bin("phase-image"), append([]string{"usb", "--root", fx.path("repo/root.json"), "--size", "512M", "--out", name}, more...)...)
	return name
}

// boot starts a machine on the LAN from a copy of the image. more are arguments of QEMU.
func (l *lan) boot(image string, more ...string) *machine {
	l.t.Helper()
	disk := filepath.Join(l.dir, fmt.Sprintf("disk%d.img", l.next))
	must(l.t, "cp", "--sparse=always", image, disk)
	return l.powerOn(disk, more...)
}

// powerOn starts a machine on the LAN from a disk, to which it may write.
func (l *lan) powerOn(disk string, more ...string) *machine {
	l.t.Helper()
	return l.startQEMU(disk, "tap:"+l.tap(), more...)
}

// startQEMU starts a machine with scripts/test-qemu-x86.sh. network is NET of the script.
func (l *lan) startQEMU(disk, network string, more ...string) *machine {
	l.t.Helper()
	return l.startQEMUWith([]string{"MEM=1536", "NET=" + network}, disk, more...)
}

// startQEMUWith starts a machine with variables of the script.
func (l *lan) startQEMUWith(env []string, disk string, more ...string) *machine {
	l.t.Helper()
	return l.startMachine("../../scripts/test-qemu-x86.sh", env, disk, more...)
}

// startMachine starts a machine with a script.
func (l *lan) startMachine(script string, env []string, disk string, more ...string) *machine {
	l.t.Helper()
	cmd := exec.Command("ip", append([]string{"netns", "exec", l.name, script, disk}, more...)...)
	cmd.Env = append(os.Environ(), env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	serial, err := cmd.StdinPipe()
	if err != nil {
		l.t.Fatal(err)
	}
	m := &machine{t: l.t, console: newConsole(), serial: serial, ended: make(chan struct{}), limit: bootDeadline}
	out := io.Writer(m.console)
	if dir := os.Getenv("PHASE_E2E_SHOTS"); dir != "" { // to look on
		if file, err := os.CreateTemp(dir, strings.ReplaceAll(l.t.Name(), "/", "-")+"-*.console"); err == nil {
			l.t.Cleanup(func() { file.Close() })
			out = io.MultiWriter(m.console, file)
		}
	}
	cmd.Stdout, cmd.Stderr = out, out
	if err := cmd.Start(); err != nil {
		l.t.Fatal(err)
	}
	m.process = cmd.Process
	go func() {
		cmd.Wait()
		close(m.ended)
	}()
	l.t.Cleanup(func() {
		m.powerOff()
		if l.t.Failed() {
			l.t.Logf("console:\n%s", m.console.tail(200))
		}
	})
	return m
}

// powerOff kills the machine.
func (m *machine) powerOff() {
	syscall.Kill(-m.process.Pid, syscall.SIGKILL)
	<-m.ended
}

// typeSerial types on the serial line.
func (m *machine) typeSerial(keys string) {
	m.t.Helper()
	if _, err := io.WriteString(m.serial, keys); err != nil {
		m.t.Fatal(err)
	}
}

// waitFor waits until the console has shown all marks in this order. The test fails if it
// shows a forbidden text before, the machine ends, or its limit passes.
func (m *machine) waitFor(marks []string, forbidden ...string) {
	m.t.Helper()
	m.waitFrom(0, marks, forbidden...)
}

// waitFrom is waitFor for the text of the console from an offset. It returns the offset after the last mark.
func (m *machine) waitFrom(from int, marks []string, forbidden ...string) (end int) {
	m.t.Helper()
	deadline := time.After(m.limit)
	for i := 0; i < len(marks); {
		text, changed := m.console.since(from)
		if at := bytes.Index(text, []byte(marks[i])); at >= 0 {
			m.failOn(text[:at], forbidden)
			from += at + len(marks[i])
			i++
			continue
		}
		m.failOn(text, forbidden)
		select {
		case <-changed:
		case <-m.ended:
			if text, _ := m.console.since(from); !bytes.Contains(text, []byte(marks[i])) {
				m.t.Fatalf("the machine ended before %q", marks[i])
			}
		case <-deadline:
			m.t.Fatalf("no %q on the console after %v", marks[i], m.limit)
		}
	}
	return from
}

func (m *machine) failOn(text []byte, forbidden []string) {
	m.t.Helper()
	for _, f := range forbidden {
		if bytes.Contains(text, []byte(f)) {
			m.t.Fatalf("the console shows %q", f)
		}
	}
}

// A console collects the output of a machine.
type console struct {
	mu      sync.Mutex
	text    []byte
	changed chan struct{}
}

func newConsole() *console { return &console{changed: make(chan struct{})} }

func (c *console) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.text = append(c.text, p...)
	close(c.changed)
	c.changed = make(chan struct{})
	return len(p), nil
}

// since returns the text after an offset, and a channel that is closed when there is more.
func (c *console) since(from int) ([]byte, <-chan struct{}) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.text[from:len(c.text):len(c.text)], c.changed
}

// length returns how many bytes there are.
func (c *console) length() int {
	text, _ := c.since(0)
	return len(text)
}

func (c *console) tail(lines int) string {
	text, _ := c.since(0)
	all := strings.Split(string(text), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}
