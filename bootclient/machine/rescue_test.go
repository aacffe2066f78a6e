package machine

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/phaseboot/phaseboot/bootclient/machine/menu"
)

// A rescueRun is a menu on pseudo-terminals, with the shell of this host.
type rescueRun struct {
	*rescue
	screens []*screen
	chosen  chan menu.Choice
}

// rescueOn prepares a menu on n terminals.
func rescueOn(t *testing.T, n int) *rescueRun {
	t.Helper()
	before := shellProgram
	shellProgram = []string{"/missing/busybox", "/bin/sh"}
	t.Cleanup(func() { shellProgram = before })
	r := &rescueRun{chosen: make(chan menu.Choice, 1)}
	for range n {
		s := newScreen(t)
		s.read()
		r.screens = append(r.screens, s)
	}
	r.rescue = &rescue{
		out: consolesOn(t, r.screens...), kids: kidsOf(t), alive: func() {},
		tools: map[menu.Action][]string{menu.Network: {"/bin/sh", "-c", "echo the $((100+1))st card"}},
		options: menu.Options{Title: "It failed.", Countdown: time.Hour, AtEnd: menu.Retry, Entries: []menu.Entry{
			{Text: "try again now", Action: menu.Retry},
			{Text: "another mode", Action: menu.Mode, Values: []string{"internet", "private"}},
			{Text: "network", Action: menu.Network},
			{Text: "shell", Action: menu.Shell},
			{Text: "restart", Action: menu.Reboot},
		}},
	}
	return r
}

func (r *rescueRun) begin() { go func() { r.chosen <- r.run() }() }

// ends waits for the end of the menu.
func (r *rescueRun) wants(t *testing.T, want menu.Choice) {
	t.Helper()
	select {
	case got := <-r.chosen:
		if got != want {
			t.Errorf("chosen: %v, want %v", got, want)
		}
	case <-time.After(time.Minute):
		t.Fatal("the menu does not end")
	}
}

func TestARetryIsRememberedWhileTheMenuIsBusy(t *testing.T) {
	r := rescueOn(t, 1)
	retries, busy, goOn := make(chan struct{}, 1), make(chan struct{}), make(chan struct{})
	requestRetry(retries) // during the attempt: it does not end the menu
	r.retry = retries
	r.alive = func() {
		busy <- struct{}{}
		<-goOn
	}
	r.begin()
	<-busy
	select {
	case <-r.chosen:
		t.Fatal("a request of before the menu has ended it")
	default:
	}
	requestRetry(retries)
	close(goOn)
	r.wants(t, menu.Choice{Action: menu.Retry})
}

const open = "> 1 try again now"

func TestTheMenuIsOnEveryConsoleAndEachHasAShell(t *testing.T) {
	r := rescueOn(t, 2)
	r.begin()
	one, two := r.screens[0], r.screens[1]
	one.shows(open + " (by itself in 1h0m0s; any key stops this)")
	two.shows(open)
	one.types("4")
	one.shows("> 4 shell ")
	two.shows("> 4 shell ") // a key stops the countdown on both
	one.types("\r")
	one.shows("This is a shell")
	one.types("echo $((40+2)) $(tty)\n")
	one.shows("42 " + one.path)
	two.types("\r")
	two.shows("This is a shell")
	two.types("echo $((50+2)) $(tty)\n")
	two.shows("52 " + two.path)
	one.text = nil
	one.types("exit\n")
	one.shows("> 4 shell ") // the menu is there again
	two.types("echo $((60+2))\n")
	two.shows("62") // and the other shell is not touched
	one.types("1\r")
	r.wants(t, menu.Choice{Action: menu.Retry})
	_, _ = r.out.Write([]byte("the next attempt\n")) // the ends of the shells have hung up the terminals
	one.shows("the next attempt")
	two.shows("the next attempt")
}

func TestAModeIsChosenWithTheArrowKeys(t *testing.T) {
	r := rescueOn(t, 1)
	r.begin()
	r.screens[0].shows(open)
	r.screens[0].types("\x1b[B\r")
	r.screens[0].shows("> 1 internet")
	r.screens[0].types("\x1b")
	r.screens[0].types("[B\n")
	r.wants(t, menu.Choice{Action: menu.Mode, Value: "private"})
}

func TestAnEntryIsShownAboveTheMenu(t *testing.T) {
	r := rescueOn(t, 2)
	r.begin()
	r.screens[0].shows(open)
	r.screens[0].types("3\r")
	r.screens[0].shows("the 101st card\r\nIt failed.")
	r.screens[0].shows("> 3 network")
	r.screens[1].shows("> 3 network")
	if strings.Contains(string(r.screens[1].text), "101st") {
		t.Error("the other console shows it too")
	}
	r.screens[1].types("1\r")
	r.wants(t, menu.Choice{Action: menu.Retry})
}

func TestTheMenuEndsWithoutAKey(t *testing.T) {
	retry := make(chan struct{}, 1)
	for name, tt := range map[string]struct {
		change func(*rescueRun)
		want   menu.Action
	}{
		"phase-boot retry":                      {func(r *rescueRun) { r.retry, r.alive = retry, func() { requestRetry(retry) } }, menu.Retry},
		"the watcher finds a release":           {func(r *rescueRun) { r.watcher = []string{"/bin/true"} }, menu.Retry},
		"the countdown":                         {func(r *rescueRun) { r.options.Countdown = 2 * time.Second }, menu.Retry},
		"the countdown to a restart":            {func(r *rescueRun) { r.options.Countdown, r.options.AtEnd = 2*time.Second, menu.Reboot }, menu.Reboot},
		"the countdown, without a console":      {func(r *rescueRun) { r.out, r.options.Countdown = consolesOn(t), time.Second }, menu.Retry},
		"the watcher, although a key was typed": {func(r *rescueRun) { r.held, r.watcher = true, []string{"/bin/true"} }, menu.Retry},
	} {
		t.Run(name, func(t *testing.T) {
			r := rescueOn(t, 1)
			tt.change(r)
			r.begin()
			r.wants(t, menu.Choice{Action: tt.want})
		})
	}
}

// A watcher that fails is started again later and ends nothing. Its last line is shown.
func TestAFailedWatcherDoesNotEndTheMenu(t *testing.T) {
	r := rescueOn(t, 1)
	r.watcher = []string{"/bin/sh", "-c", "echo '[  1.5s] no \033[2Jpeers'; exit 4"}
	r.begin()
	s := r.screens[0]
	s.shows(" no ?[2Jpeers") // an escape sequence does not reach the terminal
	s.types("5\r")
	r.wants(t, menu.Choice{Action: menu.Reboot})
}

// It gives leases back.
func TestTheWatcherMayFinish(t *testing.T) {
	r := rescueOn(t, 1)
	left := filepath.Join(t.TempDir(), "left")
	r.watcher = []string{"/bin/sh", "-c", "trap 'echo last words; echo > " + left + "; exit 1' INT; echo it waits; while :; do sleep 0.05; done"}
	r.begin()
	r.screens[0].shows("it waits")
	r.screens[0].types("1\r")
	r.wants(t, menu.Choice{Action: menu.Retry})
	if _, err := os.Stat(left); err != nil {
		t.Error(err)
	}
}

// The watcher begins no attempt at once after one that it began and that failed, and none while a person
// uses a shell.
func TestTheWatcherWaits(t *testing.T) {
	t.Run("after an attempt that failed", func(t *testing.T) {
		r := rescueOn(t, 1)
		r.watcher, r.notYet = []string{"/bin/true"}, 2*time.Second
		began := time.Now()
		r.begin()
		r.wants(t, menu.Choice{Action: menu.Retry})
		if took := time.Since(began); took < r.notYet {
			t.Errorf("after %s", took)
		}
	})
	t.Run("for a person in a shell", func(t *testing.T) {
		r := rescueOn(t, 1)
		found := filepath.Join(t.TempDir(), "found")
		r.watcher = []string{"/bin/sh", "-c", "while ! test -e " + found + "; do sleep 0.05; done"}
		r.begin()
		s := r.screens[0]
		s.shows(open)
		s.types("4\r")
		s.shows("This is a shell")
		if err := os.WriteFile(found, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		s.shows(waitingWords)
		s.types("echo $((40+2))\n")
		s.shows("42")
		s.types("exit\n")
		r.wants(t, menu.Choice{Action: menu.Retry})
	})
}
