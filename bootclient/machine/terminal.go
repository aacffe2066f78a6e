package machine

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// terminalQueue is how many chunks of output wait for a slow console. What comes on top
// of them is lost there, and only there.
const terminalQueue = 512

// A terminal is one console of the kernel with what waits to be printed on it. A console
// that stands still (Ctrl-S, flow control of a serial line) holds up nothing else.
type terminal struct {
	path  string // of a device that can be a shell's controlling terminal
	queue chan chunk
	lost  atomic.Int64 // bytes
	file  *os.File     // of the goroutine in run
	once  sync.Once
}

// A chunk is output, or the question whether all before it has left the device.
type chunk struct {
	data   []byte
	answer chan<- struct{}
}

func newTerminal(path string) *terminal {
	t := &terminal{path: path, queue: make(chan chunk, terminalQueue)}
	go t.run()
	return t
}

// close ends the terminal's output when what waits is printed.
func (t *terminal) close() { t.once.Do(func() { close(t.queue) }) }

// put queues a copy of p, or counts it as lost.
func (t *terminal) put(p []byte) {
	select {
	case t.queue <- chunk{data: append([]byte(nil), p...)}:
	default:
		t.lost.Add(int64(len(p)))
	}
}

func (t *terminal) run() {
	for c := range t.queue {
		if lost := t.lost.Swap(0); lost > 0 {
			t.print(fmt.Appendf(nil, "phase-boot: %d bytes of output are missing here\n", lost))
		}
		if c.data != nil {
			t.print(c.data)
		}
		if c.answer != nil {
			t.drain()
			c.answer <- struct{}{}
		}
	}
	if t.file != nil {
		t.file.Close()
	}
}

// print writes to the device. The end of a session hangs its terminal up, after which
// only a new open works.
func (t *terminal) print(p []byte) {
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

// keys reads what is typed on a terminal while no shell runs there, and calls interrupt
// for each Ctrl-C. Nothing typed is echoed or kept. stop ends it and leaves the terminal
// as a shell expects it.
func (t *terminal) keys(interrupt func()) (stop func()) {
	f, err := os.OpenFile(t.path, os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		return func() {}
	}
	before := setTerminal(f, func(m *unix.Termios) { m.Lflag &^= unix.ICANON | unix.ECHO | unix.ISIG })
	done := make(chan struct{})
	go func() {
		defer close(done)
		var b [64]byte
		for {
			n, err := f.Read(b[:])
			if strings.ContainsRune(string(b[:n]), 0x03) {
				interrupt()
			}
			if err != nil {
				return
			}
		}
	}()
	return func() {
		if f.SetReadDeadline(time.Unix(1, 0)) == nil {
			<-done
		}
		if before != nil {
			setTerminal(f, func(m *unix.Termios) { *m = *before })
		}
		f.Close()
	}
}

// setTerminal changes a terminal's settings and returns those of before, nil where it has
// none.
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

// sane undoes what a shell that was killed left behind: raw input without echo.
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

// consoleWorks reports whether the device of a console= value is in this machine.
// sys is where sysfs is mounted. A kind of device that sysfs does not describe
// counts as there.
func consoleWorks(sys, device string) bool {
	if isScreen(device) {
		return hasScreen(sys)
	}
	dir := filepath.Join(sys, "class/tty", device)
	if kind, err := os.ReadFile(filepath.Join(dir, "type")); err == nil {
		return strings.TrimSpace(string(kind)) != "0" // PORT_UNKNOWN: an address without a UART
	}
	if !strings.HasPrefix(device, "tty") && !strings.HasPrefix(device, "hvc") {
		return true
	}
	_, err := os.Stat(dir)
	return err == nil
}

// isScreen reports whether a console is a virtual terminal: tty0, tty1.
func isScreen(device string) bool {
	number, ok := strings.CutPrefix(device, "tty")
	return ok && strings.Trim(number, "0123456789") == ""
}

// hasScreen reports whether the virtual terminals are shown anywhere: the kernel
// binds them to a dummy where it found no screen.
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
