//go:build machine

package e2e

import (
	"flag"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// A row is one situation of docs/MATRIX.md: a machine that cannot boot, or not as usual, because of one
// cause. No row presses a key. docs/matrix_test.go compares the literals of the rows with the page.
type row struct {
	name      string   // of the subtest
	situation string   // on the page
	says      []string // what the console shows while the cause is there, in this order
	ends      string   // on the page: what removes the cause, or "nothing" for a machine that needs no help

	start  func(s *site)           // starts the machine and the cause
	remove func(s *site)           // removes the cause; nil if the machine needs no help
	lasts  time.Duration           // how long the cause lasts after the machine has said what it is
	starts bool                    // the cause is in the target: the machine jumps into it
	menu   bool                    // the attempt fails, and the search behind the menu begins the next one
	sign   string                  // the first sign that the cause went
	later  func(s *site, from int) // what happens in place of the jump
}

const (
	nextAttempt = "the next attempt begins"
	started     = "] kexec: starting the new kernel"
	// wakeLimit is how long the search behind the menu may take to notice that the cause went, on a busy
	// machine. The first countdown is a minute.
	wakeLimit = 40 * time.Second
	rowLimit  = 6 * time.Minute // for each text
)

// A site is the network and the machine of one row.
type site struct {
	*lan
	m      *screen
	env    []string       // variables of scripts/test-qemu-x86.sh
	values map[string]any // what start leaves for remove
	power  time.Time      // when the machine was switched on
	until  time.Time      // the cause lasts at least until then
}

// on starts the machine from a copy of an image. network is NET of scripts/test-qemu-x86.sh.
func (s *site) on(image, network string, more ...string) {
	s.t.Helper()
	disk := filepath.Join(s.dir, "machine.img")
	must(s.t, "cp", "--sparse=always", image, disk)
	s.again(disk, network, more...)
}

// again starts a machine from a disk, to which it may write.
func (s *site) again(disk, network string, more ...string) {
	s.t.Helper()
	monitor := filepath.Join(s.dir, fmt.Sprintf("qmp%d", s.next))
	s.next++
	s.power = time.Now()
	env := append([]string{"MEM=1536", "NET=" + network}, s.env...)
	m := s.startQEMUWith(env, disk, append(append(monitorAt(monitor), serialAlone...), more...)...)
	m.limit = rowLimit
	s.m = m.connectMonitor(monitor, nil)
}

// port adds a port for the machine, as NET of the script.
func (s *site) port() string { return "tap:" + s.tap() }

// A finding is what a row has shown.
type finding struct {
	row
	state            string
	words            time.Duration // from power-on to the last of says
	wakes, recovered time.Duration // from the removal of the cause to the first sign, and to the jump
}

func (f finding) String() string {
	seconds := func(d time.Duration) string {
		if d == 0 {
			return "-"
		}
		return fmt.Sprintf("%.0f s", d.Seconds())
	}
	return fmt.Sprintf("%-22s %-6s %8s %8s %8s  %s", f.name, f.state, seconds(f.words), seconds(f.wakes), seconds(f.recovered), strings.Join(f.says, " … "))
}

var matrixHead = fmt.Sprintf("%-22s %-6s %8s %8s %8s  %s", "row", "", "words", "wakes", "jump", "what the screen said")

// TestMatrix is `make test-machine`. It prints a table: for each row, the seconds from power-on to the
// words on the screen, and from the end of the cause to the first sign of it and to the jump.
func TestMatrix(t *testing.T) {
	var mu sync.Mutex
	var found []finding
	began := time.Now()
	t.Cleanup(func() {
		slices.SortStableFunc(found, func(a, b finding) int { return a.place() - b.place() })
		fmt.Println(matrixHead)
		for _, f := range found {
			fmt.Println(f)
		}
		fmt.Printf("%d rows in %s, %s at a time\n", len(found), time.Since(began).Round(time.Second), flag.Lookup("test.parallel").Value)
	})
	for _, r := range rows() {
		t.Run(r.name, func(t *testing.T) {
			t.Parallel()
			f := finding{row: r, state: "FAILED"}
			t.Cleanup(func() {
				mu.Lock()
				defer mu.Unlock()
				found = append(found, f)
				fmt.Println(f)
			})
			f.run(t)
		})
	}
}

func rows() []row {
	return slices.Concat(networkRows, publisherRows, clockRows, cacheRows, releaseRows, siteRows)
}

func (f finding) place() int {
	return slices.IndexFunc(rows(), func(r row) bool { return r.name == f.name })
}

// run runs the row.
func (f *finding) run(t *testing.T) {
	s := &site{lan: newSegment(t, "10.55.0"), values: map[string]any{}}
	f.start(s)
	var forbidden []string
	if f.remove != nil && !f.starts {
		forbidden = append(forbidden, started)
	}
	if !slices.Contains(f.says, refused) {
		forbidden = append(forbidden, refused)
	}
	at := s.m.waitFrom(0, f.says, forbidden...)
	f.words = time.Since(s.power)
	if f.remove != nil {
		time.Sleep(max(f.lasts, time.Until(s.until))) // the cause lasts so long
		before := s.m
		at = before.console.length()
		if f.remove(s); s.m != before {
			at = 0 // another machine
		}
	}
	ended := time.Now()
	if f.menu {
		f.sign = nextAttempt
	}
	if f.sign != "" {
		at = s.m.waitFrom(at, []string{f.sign})
		f.wakes = time.Since(ended)
	}
	if f.menu && f.wakes > wakeLimit {
		t.Errorf("the next attempt begins %s after the cause went", f.wakes.Round(time.Second))
	}
	if f.later != nil {
		f.later(s, at)
	} else {
		s.m.waitFrom(at, []string{started, "Linux version", "phase-boot: target: release "})
	}
	if f.remove != nil {
		f.recovered = time.Since(ended)
	}
	s.m.powerOff()
	if !t.Failed() {
		f.state = "ok"
	}
}
