package machine

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/phaseboot/phaseboot/bootclient/machine/menu"
	"github.com/phaseboot/phaseboot/bootclient/report"
)

// A board is the menu on one console.
type board struct {
	term  *terminal
	in    *terminalInput // nil while a shell has the terminal
	deaf  chan struct{}  // closed when the keys of in are not wanted any more
	keys  menu.Keys
	view  menu.View
	quiet int // seconds without a key

	shell, tool *process
	began       time.Time // of the shell or the tool
}

// An input is a piece of input of a console.
type input struct {
	board *board
	data  []byte
}

// attach adds a board for each console that has none, because a driver may have added a screen, and
// removes those of consoles that are gone.
func (r *rescue) attach() {
	r.out.refresh()
	list := r.out.terminals()
	r.boards = slices.DeleteFunc(r.boards, func(b *board) bool {
		gone := b.shell == nil && b.tool == nil && !slices.Contains(list, b.term)
		if gone {
			r.unlisten(b)
		}
		return gone
	})
	for _, t := range list {
		at := slices.IndexFunc(r.boards, func(b *board) bool { return b.term.path == t.path })
		if at >= 0 {
			r.boards[at].term = t
			continue
		}
		width, _ := t.size()
		b := &board{term: t, view: menu.View{Screen: isScreen(filepath.Base(t.path)), Width: width}}
		r.boards = append(r.boards, b)
		r.listen(b)
	}
}

// listen reads the keys of a console.
func (r *rescue) listen(b *board) {
	deaf := make(chan struct{})
	b.deaf = deaf
	b.in = b.term.onInput(func(data []byte) {
		select {
		case r.inputs <- input{b, bytes.Clone(data)}:
		case <-deaf:
		case <-r.done:
		}
	})
}

// unlisten ends the reading.
func (r *rescue) unlisten(b *board) {
	if b.in != nil {
		close(b.deaf)
		b.in.stop()
		b.in = nil
	}
}

// draw draws the menu on every console that neither a shell nor a tool uses.
func (r *rescue) draw() {
	for _, b := range r.boards {
		if b.shell == nil && b.tool == nil {
			if text := b.view.Draw(r.menu); text != "" {
				b.term.print([]byte(text))
			}
		}
	}
}

// shellProgram lists the shells to try on a console, in order.
var shellProgram = []string{"/bin/busybox", "/bin/sh"}

// openShell gives a console to a shell.
func (r *rescue) openShell(b *board) {
	r.unlisten(b)
	b.term.print([]byte(b.view.Leave() + shellWords))
	b.term.flush()
	var err error
	b.began = time.Now()
	if b.shell, err = r.start(func() (int, error) { return spawnShell(b.term.path) }); err != nil {
		b.term.print([]byte(fmt.Sprintf("phase-boot: shell on %s: %s\n", b.term.path, report.Printable(err.Error()))))
		r.listen(b)
	}
}

const shellWords = "This is a shell: `phase-boot status` shows details, `phase-boot retry` tries again, `exit` goes back to the menu, `reboot` restarts the machine.\n"

// spawnShell starts a shell on a terminal, in a session of its own.
func spawnShell(path string) (pid int, err error) {
	tty, err := os.OpenFile(path, os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		return 0, err
	}
	defer tty.Close()
	for _, program := range shellProgram {
		if pid, err = spawn(program, []string{"sh"}, tty); err == nil {
			return pid, nil
		}
		err = fmt.Errorf("%s: %w", program, err)
	}
	return 0, err
}

// openTool runs a program and prints its output on one console.
func (r *rescue) openTool(b *board, argv []string) {
	if len(argv) == 0 {
		return
	}
	b.term.print([]byte(b.view.Leave() + "\n"))
	b.began = time.Now()
	term := b.term
	p, err := r.startOutput(argv, func(out io.Reader) { _, _ = io.Copy(term, out) })
	if err != nil {
		b.term.print([]byte(fmt.Sprintf("phase-boot: %s: %s\n", argv[0], report.Printable(err.Error()))))
		return
	}
	b.tool = p
}
