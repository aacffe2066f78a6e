package machine

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/phaseboot/phaseboot/cas"
)

// torOf returns a Tor of this host that has the torrc, and what it has said so far.
func torOf(t *testing.T, torrc string) (*tor, func() []string) {
	t.Helper()
	program, err := exec.LookPath("tor")
	if err != nil {
		if program = "/usr/sbin/tor"; exec.Command(program, "--version").Run() != nil {
			t.Fatal("tor is missing; run: apt-get install tor")
		}
	}
	free, err := net.Listen("tcp", "127.0.0.1:0") // two users of this host may run the test
	if err != nil {
		t.Fatal(err)
	}
	defer free.Close()
	dir := t.TempDir()
	file := filepath.Join(dir, "torrc")
	if err := os.WriteFile(file, []byte(torrc), 0o644); err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	var said []string
	return &tor{
		program: program, torrc: file, dir: filepath.Join(dir, "data"), proxy: "socks5://" + free.Addr().String(), patience: 3 * time.Second,
		now: func() time.Time { return time.Date(1970, 1, 2, 3, 4, 0, 0, time.UTC) },
		say: func(format string, args ...any) {
			mu.Lock()
			defer mu.Unlock()
			said = append(said, fmt.Sprintf(format, args...))
		},
	}, func() []string { mu.Lock(); defer mu.Unlock(); return slices.Clone(said) }
}

// nobody is a network of which no server answers.
const nobody = `DirAuthority a orport=1 no-v2 v3ident=00000000000000000000000000000000000000AA 127.0.0.1:1 00000000000000000000000000000000000000AB
TestingTorNetwork 1
`

func TestATorThatIsNotConnectedSaysWhy(t *testing.T) {
	tor, said := torOf(t, nobody)
	err := tor.start(t.Context())
	if !errors.Is(err, cas.ErrUnreachable) {
		t.Fatalf("got %v", err)
	}
	for _, want := range []string{"no progress for 3s, at ", "a clock that is right to some hours (this one says 1970-01-02 03:04 UTC)", "--torrc"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("no %q in %q", want, err)
		}
	}
	if lines := said(); !slices.Contains(lines, "tor: 0 %: starting") {
		t.Errorf("it said %q", lines)
	}
	stopped(t, tor)
}

func TestATorWithABadTorrcSaysWhy(t *testing.T) {
	tor, said := torOf(t, "NoSuchOption 1\n")
	err := tor.start(t.Context())
	if err == nil || !strings.Contains(err.Error(), "Tor has ended") || !strings.Contains(err.Error(), "NoSuchOption") {
		t.Errorf("got %v after %q", err, said())
	}
	stopped(t, tor)
}

func TestATorIsStoppedWithTheBoot(t *testing.T) {
	tor, _ := torOf(t, nobody)
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(200*time.Millisecond, cancel)
	if err := tor.start(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	stopped(t, tor)
}

// stopped checks that nothing is left of a Tor.
func stopped(t *testing.T, tor *tor) {
	t.Helper()
	select {
	case <-tor.ended:
	default:
		t.Error("the process still runs")
	}
	if _, err := os.Stat(tor.dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("its data directory: %v", err)
	}
}

func TestLinesOfTheLogOfTor(t *testing.T) {
	for _, tt := range []struct {
		line     string
		progress bool
		want     string // "" for no line on the console
	}{
		{"Nov 29 17:00:00.000 [notice] Bootstrapped 0% (starting): Starting", false, "tor: 0 %: starting"},
		{"Nov 29 17:00:00.000 [notice] Bootstrapped 45% (requesting_descriptors): Asking for relay descriptors", true, "tor: 45 %: asking for relay descriptors"},
		{"Nov  9 17:00:00.000 [notice] Bootstrapped 45% (requesting_descriptors): Asking for relay descriptors", false, "tor: 45 %: asking for relay descriptors"},
		{"Nov 29 17:00:00.000 [notice] Bootstrapped 999%: Done", true, "tor: 100 %: done"},
		{"Nov 29 17:00:00.000 [notice] Opening Socks listener on 127.0.0.1:9050", false, ""},
		{"Nov 29 17:00:00.000 [warn] Our clock is 2 days behind\x1b[2J", false, `tor: warning: Our clock is 2 days behind`},
		{"a line of another program", false, ""},
		{"", false, ""},
	} {
		var said []string
		tor := tor{say: func(format string, args ...any) { said = append(said, fmt.Sprintf(format, args...)) }}
		if strings.Contains(tt.line, "45%") && !tt.progress {
			tor.percent = 45
		}
		if got := tor.read(tt.line); got != tt.progress {
			t.Errorf("%q: progress is %t", tt.line, got)
		}
		if tt.want == "" && len(said) > 0 || tt.want != "" && (len(said) != 1 || !strings.HasPrefix(said[0], tt.want) || strings.Contains(said[0], "\x1b")) {
			t.Errorf("%q: the console shows %q", tt.line, said)
		}
	}
}

func TestARepeatedWarningOfTorIsShownOnce(t *testing.T) {
	lines := 0
	tor := tor{say: func(string, ...any) { lines++ }}
	for range 5 {
		tor.read("Nov 29 17:00:00.000 [warn] the same")
	}
	for i := range 50 {
		tor.read(fmt.Sprintf("Nov 29 17:00:00.000 [warn] number %d", i))
	}
	if lines > maxWarnings {
		t.Errorf("%d warnings on the console", lines)
	}
	if tor.last != [2]string{"number 49", "number 48"} {
		t.Errorf("the last one is %q", tor.last)
	}
}
