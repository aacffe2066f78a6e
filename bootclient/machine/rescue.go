package machine

import (
	"bufio"
	"io"
	"os"
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

// rescue prints why nothing was booted and shows the menu. It returns when the next attempt is due.
func (p *pid1) rescue(reason error) error {
	p.out.refresh()
	text := refusalText(reason)
	p.out.refuse(text)
	_ = os.WriteFile(reasonFile, []byte(text), 0o644) // for phase-boot status
	p.out.drain()
	p.choice.LastGood = false // it was for one attempt
	s := p.settings()
	next := p.wait.fail(s.restartAfter)
	self := []string{"/proc/self/exe"}
	r := rescue{
		out: p.out, kids: p.kids, retry: p.retry, notYet: next.notYet, alive: func() { p.dog.allow(maxSilence) }, held: p.out.interrupted.Load(),
		options: menu.Options{Title: s.title(next.attempt), Entries: s.entries(), Countdown: next.countdown, AtEnd: next.atEnd, Idle: maxPause},
		tools: map[menu.Action][]string{
			menu.Network: append(self, "network"), menu.Report: append(self, "status"), menu.Messages: append(self, "dmesg"), menu.Save: append(append(self, "save"), p.choice.args()...),
		},
	}
	if s.target {
		r.options.AtEnd = menu.Reboot // the same would fail again; a restart boots the newest published release
	} else if !r.held {
		r.watcher = append(append(self, "search"), p.choice.args()...)
	}
	chosen := r.run()
	unmountCache() // the watcher may have left it mounted
	p.wait.begin(r.touched || r.held, r.found)
	p.out.refresh()
	p.follow(chosen)
	return nil
}

// follow does what was chosen, except the attempt itself.
func (p *pid1) follow(chosen menu.Choice) {
	switch chosen.Action {
	case menu.Mode:
		p.choice.Mode = chosen.Value
	case menu.Channel:
		p.choice.Channel = chosen.Value
	case menu.LastGood:
		p.choice.LastGood = true
	case menu.Reboot:
		p.report.Say("restarting the machine")
		p.out.drain()
		powerOff(unix.LINUX_REBOOT_CMD_RESTART)
		time.Sleep(firstPause) // it did not restart
	}
}

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
