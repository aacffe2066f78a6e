package machine

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/phaseboot/phaseboot/bootclient/machine/menu"
	"github.com/phaseboot/phaseboot/bootclient/report"
)

const (
	// shellInUse is how long a shell without a key counts as used by a person.
	shellInUse = 10 * time.Minute
	// toolLimit is the longest run of a program that prints one of the entries.
	toolLimit = time.Minute
	// watchPause is the time before a watcher that failed is started again; it doubles up to
	// watchMaxPause.
	watchPause    = 5 * time.Second
	watchMaxPause = time.Minute
)

// shellProgram lists the shells to try on a console, in order.
var shellProgram = []string{"/bin/busybox", "/bin/sh"}

// A rescue is the time between two attempts of a boot: a menu on every console, and a watcher that
// ends when another attempt can succeed.
type rescue struct {
	out     *consoles
	kids    *children
	retry   <-chan struct{}          // requests of phase-boot retry
	watcher []string                 // a command that exits with 0 when another attempt can succeed; nil for none
	notYet  time.Duration            // how long such an exit does not count
	tools   map[menu.Action][]string // the commands that print an entry
	alive   func()                   // called every second
	options menu.Options             // of the menu
	held    bool                     // the countdown does not run: a person has stopped the attempt

	menu    *menu.Menu
	touched bool // a person has pressed a key
	began   time.Time
	boards  []*board
	inputs  chan input
	exits   chan *process
	status  chan string
	done    chan struct{}

	watch      *process
	found      bool   // the watcher says that another attempt can succeed
	last       string // its last line
	watchAgain time.Time
	watchNext  time.Duration
}

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

// run shows the menu until something is chosen that ends it.
func (r *rescue) run() menu.Choice {
	r.menu, r.began, r.watchNext = menu.New(r.options), time.Now(), watchPause
	r.inputs, r.exits, r.status, r.done = make(chan input), make(chan *process), make(chan string), make(chan struct{})
	if r.held {
		r.menu.Hold()
	}
	defer r.end()
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	r.attach()
	r.startWatcher()
	select {
	case <-r.retry: // a request of before the menu: the attempt was running
	default:
	}
	for {
		r.draw()
		var choice menu.Choice
		select {
		case in := <-r.inputs:
			choice = r.typed(in)
		case p := <-r.exits:
			r.exited(p)
		case r.last = <-r.status:
			r.menu.SetStatus(r.last)
		case <-r.retry:
			return menu.Choice{Action: menu.Retry}
		case <-tick.C:
			choice = r.tick()
		}
		if r.found && time.Since(r.began) >= r.notYet && !r.shellInUse() {
			r.say(r.last)
			return menu.Choice{Action: menu.Retry}
		}
		if r.ends(choice) {
			return choice
		}
	}
}

// end ends all processes and gives the terminals back.
func (r *rescue) end() {
	if r.watch != nil { // it gives its leases back
		r.watch.signal(unix.SIGINT)
		select {
		case <-r.watch.ended:
		case <-time.After(2 * leaveLimit):
		}
	}
	close(r.done)
	var running []*process
	for _, b := range r.boards {
		running = append(running, b.shell, b.tool)
	}
	for _, p := range append(running, r.watch) {
		if p != nil {
			p.kill()
			select {
			case <-p.ended:
			case <-time.After(killAfter): // a device does not answer
			}
		}
	}
	for _, b := range r.boards {
		r.unlisten(b)
		b.term.print([]byte(b.view.Leave()))
		sane(b.term.path)
	}
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

// typed handles the keys of a console.
func (r *rescue) typed(in input) menu.Choice {
	in.board.quiet = 0
	return r.press(in.board, in.board.keys.Decode(in.data))
}

// press handles keys. It does the actions that leave the menu open, and returns the others.
func (r *rescue) press(b *board, keys []menu.Key) menu.Choice {
	for _, k := range keys {
		if b.shell != nil || b.tool != nil {
			break // the terminal was given away
		}
		r.touched = true
		choice := r.menu.Press(k)
		if r.ends(choice) {
			return choice
		}
		if choice.Action == menu.Shell {
			r.openShell(b)
		} else if choice.Action != menu.None {
			r.openTool(b, r.tools[choice.Action])
		}
	}
	return menu.Choice{}
}

// ends reports whether a choice ends the menu.
func (r *rescue) ends(c menu.Choice) bool {
	switch c.Action {
	case menu.Retry, menu.Mode, menu.Channel, menu.LastGood, menu.Reboot:
		return true
	}
	return false
}

// tick handles a second.
func (r *rescue) tick() menu.Choice {
	r.alive()
	r.attach()
	for _, b := range r.boards {
		if b.quiet++; b.quiet == 2 {
			r.press(b, b.keys.Flush())
		}
		if b.tool != nil && time.Since(b.began) > toolLimit {
			b.tool.kill()
		}
		if b.in != nil && isClosed(b.in.ended) { // the terminal was hung up
			r.unlisten(b)
			r.listen(b)
		}
	}
	if r.watch == nil && !r.found && time.Now().After(r.watchAgain) {
		r.startWatcher()
	}
	if r.shellInUse() {
		r.menu.Hold()
		return menu.Choice{}
	}
	return r.menu.Tick(time.Second)
}

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// shellInUse reports whether a person has used a shell in the last minutes.
func (r *rescue) shellInUse() bool {
	for _, b := range r.boards {
		if b.shell != nil && (time.Since(b.began) < shellInUse || time.Since(lastInput(b.term.path)).Abs() < shellInUse) {
			return true
		}
	}
	return false
}

// exited handles the end of a process.
func (r *rescue) exited(p *process) {
	if p == r.watch {
		r.watch = nil
		if r.found = p.status == 0; r.found {
			r.announce()
			return
		}
		r.watchAgain = time.Now().Add(r.watchNext)
		r.watchNext = min(2*r.watchNext, watchMaxPause)
		return
	}
	for _, b := range r.boards {
		switch p {
		case b.tool:
			b.tool = nil
		case b.shell:
			b.shell = nil
			sane(b.term.path)
			r.listen(b)
			b.view.Leave()
		}
	}
}

// announce tells the users of shells that an attempt waits for them.
func (r *rescue) announce() {
	for _, b := range r.boards {
		if b.shell != nil {
			b.term.print([]byte("\nphase-boot: " + waitingWords + "\n"))
		}
	}
}

// say prints on every console why the next attempt begins.
func (r *rescue) say(why string) {
	for _, b := range r.boards {
		b.term.print([]byte(b.view.Leave() + "phase-boot: watch: " + why + "; the next attempt begins\n"))
	}
}

const waitingWords = "the next attempt can succeed, and begins when you leave this shell with exit"

// start starts a process, whose end becomes an event.
func (r *rescue) start(spawn func() (int, error)) (*process, error) {
	p, err := r.kids.start(spawn)
	if err == nil {
		go r.awaitExit(p)
	}
	return p, err
}

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

// startOutput starts a program and passes its output to a function. The end of the program becomes an
// event when the function has returned.
func (r *rescue) startOutput(argv []string, take func(out io.Reader)) (*process, error) {
	read, write, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer write.Close()
	p, err := r.kids.start(func() (int, error) { return spawnQuiet(argv[0], argv, write) })
	if err != nil {
		read.Close()
		return nil, err
	}
	go func() {
		defer read.Close()
		take(read)
		r.awaitExit(p)
	}()
	return p, nil
}

// awaitExit makes the end of a process an event.
func (r *rescue) awaitExit(p *process) {
	<-p.ended
	select {
	case r.exits <- p:
	case <-r.done:
	}
}

// startWatcher starts the watcher. Its lines become the status of the menu.
func (r *rescue) startWatcher() {
	if len(r.watcher) == 0 {
		return
	}
	p, err := r.startOutput(r.watcher, r.follow)
	if err != nil {
		r.menu.SetStatus("watch: " + report.Printable(err.Error()))
		r.watchAgain = time.Now().Add(watchMaxPause)
		return
	}
	r.watch = p
}

// follow passes on the lines of the watcher, without their times.
func (r *rescue) follow(out io.Reader) {
	scanner := bufio.NewScanner(out)
	for scanner.Scan() {
		text := report.Printable(scanner.Text())
		if _, after, found := strings.Cut(text, "] "); found && strings.HasPrefix(text, "[") {
			text = after
		}
		select {
		case r.status <- text:
		case <-r.done:
			return
		}
	}
	_, _ = io.Copy(io.Discard, out) // after a line that is too long
}
