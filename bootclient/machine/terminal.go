package machine

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/phaseboot/phaseboot/bootclient/machine/display"
)

const (
	// terminalQueue is how many chunks of output wait for a slow console. Further output is lost on
	// that console only.
	terminalQueue = 512
	// flushLimit is how long the start of a shell waits for earlier output.
	flushLimit = 2 * time.Second
)

// A terminal is one console of the kernel with its queue of output. A console that is stopped
// (Ctrl-S, flow control of a serial line) delays nothing else.
type terminal struct {
	path string       // a device that can be the controlling terminal of a shell
	lost atomic.Int64 // bytes
	file *os.File     // used by the goroutine of run only
	view display.View // of the boot; used under the lock of consoles

	mu     sync.Mutex // held to send to or close the queue
	queue  chan chunk
	closed bool
}

// A chunk is output, or a request to signal on drained that all output before it has left the
// device.
type chunk struct {
	data    []byte
	drained chan<- struct{}
}

func newTerminal(path string) *terminal {
	t := &terminal{path: path, queue: make(chan chunk, terminalQueue)}
	go t.run()
	return t
}

// close ends the terminal's goroutine after it has printed the queue.
func (t *terminal) close() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.closed {
		t.closed = true
		close(t.queue)
	}
}

// enqueue adds a chunk without waiting. It reports false if the queue is full or closed.
func (t *terminal) enqueue(c chunk) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return false
	}
	select {
	case t.queue <- c:
		return true
	default:
		return false
	}
}

// print queues a copy of p, or counts it as lost.
func (t *terminal) print(p []byte) {
	if !t.enqueue(chunk{data: bytes.Clone(p)}) {
		t.lost.Add(int64(len(p)))
	}
}

// show prints a text, unless it is empty.
func (t *terminal) show(text string) {
	if text != "" {
		t.print([]byte(text))
	}
}

// Write is print, as an io.Writer.
func (t *terminal) Write(p []byte) (int, error) {
	t.print(p)
	return len(p), nil
}

// flush waits until all output has left the device, but not long.
func (t *terminal) flush() {
	drained := make(chan struct{}, 1)
	if !t.enqueue(chunk{drained: drained}) {
		return
	}
	select {
	case <-drained:
	case <-time.After(flushLimit):
	}
}

// run prints the queue until it is closed.
func (t *terminal) run() {
	for c := range t.queue {
		if lost := t.lost.Swap(0); lost > 0 {
			t.write(fmt.Appendf(nil, "phase-boot: %d bytes of output are missing here\n", lost))
		}
		if c.data != nil {
			t.write(c.data)
		}
		if c.drained != nil {
			t.drain()
			c.drained <- struct{}{}
		}
	}
	if t.file != nil {
		t.file.Close()
	}
}

// write writes to the device. The end of a session hangs up its terminal; the device must then
// be opened again.
func (t *terminal) write(p []byte) {
	for range 2 {
		if t.file == nil {
			f, err := os.OpenFile(t.path, os.O_WRONLY|unix.O_NOCTTY, 0)
			if err != nil {
				return
			}
			t.file = f
		}
		n, err := t.file.Write(p)
		if err == nil {
			return
		}
		p = p[n:]
		t.file.Close()
		t.file = nil
	}
}

// drain waits until the last byte has left the device (tcdrain(3)).
func (t *terminal) drain() {
	if t.file == nil {
		return
	}
	if raw, err := t.file.SyscallConn(); err == nil {
		_ = raw.Control(func(fd uintptr) { _ = unix.IoctlSetInt(int(fd), unix.TCSBRK, 1) })
	}
}

// onCtrlC reads the input of a terminal while no shell runs there, and calls interrupt for each
// Ctrl-C. stop ends the reading.
func (t *terminal) onCtrlC(interrupt func()) (stop func()) {
	in := t.onInput(func(input []byte) {
		if bytes.IndexByte(input, 0x03) >= 0 {
			interrupt()
		}
	})
	return in.stop
}

// A terminalInput reads the keys of a terminal. ended is closed when it cannot read further: the
// terminal was hung up, or there is none.
type terminalInput struct {
	ended  chan struct{}
	file   *os.File
	before *unix.Termios
}

// onInput reads the input of a terminal while no shell runs there, and passes it to a function. Input
// is neither echoed nor kept for a line, and no key sends a signal.
func (t *terminal) onInput(f func(input []byte)) *terminalInput {
	in := &terminalInput{ended: make(chan struct{})}
	file, err := os.OpenFile(t.path, os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		close(in.ended)
		return in
	}
	in.file = file
	in.before = setTerminal(file, func(m *unix.Termios) {
		m.Lflag &^= unix.ICANON | unix.ECHO | unix.ISIG
		m.Cc[unix.VMIN], m.Cc[unix.VTIME] = 1, 0
	})
	go func() {
		defer close(in.ended)
		var b [64]byte
		for {
			n, err := file.Read(b[:])
			if n > 0 {
				f(b[:n])
			}
			if err != nil {
				return
			}
		}
	}()
	return in
}

// stop ends the reading and restores the settings of the terminal.
func (in *terminalInput) stop() {
	if in.file == nil {
		return
	}
	if in.file.SetReadDeadline(time.Unix(1, 0)) == nil {
		<-in.ended
	}
	if in.before != nil {
		setTerminal(in.file, func(m *unix.Termios) { *m = *in.before })
	}
	in.file.Close()
}

// size returns the columns and the rows of a terminal, 0 if it does not know them.
func (t *terminal) size() (columns, rows int) {
	file, err := os.OpenFile(t.path, os.O_RDWR|unix.O_NOCTTY|unix.O_NONBLOCK, 0)
	if err != nil {
		return 0, 0
	}
	defer file.Close()
	if raw, err := file.SyscallConn(); err == nil {
		_ = raw.Control(func(fd uintptr) {
			if size, err := unix.IoctlGetWinsize(int(fd), unix.TIOCGWINSZ); err == nil {
				columns, rows = int(size.Col), int(size.Row)
			}
		})
	}
	return columns, rows
}

// lastInput returns when input of a terminal was last read. The kernel counts in steps of 8 s.
func lastInput(path string) time.Time {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return time.Time{}
	}
	return time.Unix(st.Atim.Unix())
}

// setTerminal changes the settings of a terminal and returns the earlier ones, nil for a device
// without settings.
func setTerminal(f *os.File, change func(*unix.Termios)) (before *unix.Termios) {
	raw, err := f.SyscallConn()
	if err != nil {
		return nil
	}
	_ = raw.Control(func(fd uintptr) {
		m, err := unix.IoctlGetTermios(int(fd), unix.TCGETS)
		if err != nil {
			return
		}
		old := *m
		before = &old
		change(m)
		_ = unix.IoctlSetTermios(int(fd), unix.TCSETS, m)
	})
	return before
}

// sane resets a terminal as `stty sane` does: a killed shell may leave raw input without echo.
func sane(path string) {
	f, err := os.OpenFile(path, os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		return
	}
	defer f.Close()
	setTerminal(f, func(m *unix.Termios) {
		m.Iflag |= unix.ICRNL
		m.Oflag |= unix.OPOST | unix.ONLCR
		m.Lflag |= unix.ICANON | unix.ECHO | unix.ECHOE | unix.ECHOK | unix.ISIG | unix.IEXTEN
	})
}

// consolePresent reports whether the device of a console= value is in this machine. sys is the
// mount point of sysfs. A device of a kind that sysfs does not describe counts as present.
func consolePresent(sys, device string) bool {
	if isScreen(device) {
		return hasScreen(sys)
	}
	dir := filepath.Join(sys, "class/tty", device)
	if kind, err := os.ReadFile(filepath.Join(dir, "type")); err == nil {
		return strings.TrimSpace(string(kind)) != "0" // 0 is PORT_UNKNOWN: an address without a UART
	}
	if !strings.HasPrefix(device, "tty") && !strings.HasPrefix(device, "hvc") {
		return true
	}
	_, err := os.Stat(dir)
	return err == nil
}

// isScreen reports whether a console is a virtual terminal, such as tty0 or tty1.
func isScreen(device string) bool {
	number, ok := strings.CutPrefix(device, "tty")
	return ok && strings.Trim(number, "0123456789") == ""
}

// hasScreen reports whether the virtual terminals are shown on a screen. Without a screen, the
// kernel binds them to a dummy driver.
func hasScreen(sys string) bool {
	drivers, err := filepath.Glob(filepath.Join(sys, "class/vtconsole/vtcon*"))
	if err != nil {
		return false
	}
	for _, dir := range drivers {
		name, err := os.ReadFile(filepath.Join(dir, "name"))
		bound, boundErr := os.ReadFile(filepath.Join(dir, "bind"))
		if err == nil && boundErr == nil && strings.TrimSpace(string(bound)) == "1" && !strings.Contains(string(name), "dummy") {
			return true
		}
	}
	return false
}
