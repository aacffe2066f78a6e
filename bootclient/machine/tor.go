package machine

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"os"
	"os/exec"
	"regexp"
	"runtime"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/phaseboot/phaseboot/bootclient/network"
	"github.com/phaseboot/phaseboot/bootclient/report"
	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/internal/refusal"
)

const (
	torProgram = "/bin/tor"       // phase-image --with-tor puts it there
	torrcFile  = "/etc/tor/torrc" // phase-image --torrc
	torDir     = "/run/phase-tor" // its data directory, in memory
	torUser    = 9050             // the user and group of the process; nothing else has them

	torPatience = 2 * time.Minute // without progress
	torStop     = 3 * time.Second // to end by itself

	maxTorLine  = 4 << 10 // bytes of a line of its log
	maxTorWords = 200     // bytes of a warning that the console shows
	maxWarnings = 8       // that the console shows
)

// hasTor reports whether the image contains Tor.
func hasTor() bool {
	_, err := os.Stat(torProgram)
	return err == nil
}

// useTor starts Tor if the mode wants it, and returns when Tor is connected. It reports its progress.
func (b *boot) useTor(ctx context.Context) error {
	if !b.config.Mode.Tor {
		return nil
	}
	if errors.Is(b.networkErr, network.ErrNoNIC) {
		return fmt.Errorf("no source is reachable: %w", b.networkErr)
	}
	b.stopTor()
	step := b.report.Begin("tor")
	if !hasTor() {
		return step.Fail(refusal.New(fs.ErrNotExist, "mode %s needs Tor, and this image has none; build it with phase-image --with-tor, or choose another mode", b.config.Mode.Name))
	}
	t := tor{program: torProgram, torrc: torrcFile, dir: torDir, proxy: b.config.Mode.Proxy, user: torUser, patience: torPatience, say: b.report.Say, now: time.Now}
	if err := t.start(ctx); err != nil {
		return step.Fail(err)
	}
	b.tor = &t
	step.Done("connected; all connections go through it")
	return nil
}

// keepTor starts Tor anew if it has ended.
func (b *boot) keepTor(ctx context.Context) error {
	if b.tor != nil && !isClosed(b.tor.ended) {
		return nil
	}
	return b.useTor(ctx)
}

// stopTor ends Tor and removes what it has stored.
func (b *boot) stopTor() {
	if b.tor == nil {
		return
	}
	if err := b.tor.stop(); err != nil {
		b.report.Say("tor: %v", err)
	}
	b.tor = nil
}

// A tor is a Tor process. It runs as a user of its own, which can write to its data directory only, and ends
// with this process.
type tor struct {
	program, torrc, dir string
	proxy               string // socks5://127.0.0.1:PORT
	user                int    // 0 for that of this process
	patience            time.Duration
	say                 func(format string, args ...any)
	now                 func() time.Time

	process *os.Process
	ended   chan struct{} // closed when the process has ended and its log was read

	// State of start:
	percent  int
	doing    string // what Tor does at this percentage
	warnings int
	last     [2]string // the last two warnings, the last one first
}

// start starts the process and returns when Tor is connected. After an error, the process does not run.
func (t *tor) start(ctx context.Context) error {
	if err := t.makeDir(); err != nil {
		return fmt.Errorf("data directory: %w", err)
	}
	args, err := t.args()
	if err != nil {
		return err
	}
	lines, err := t.run(args)
	if err != nil {
		return errors.Join(err, t.stop())
	}
	if err := t.wait(ctx, lines); err != nil {
		err = errors.Join(err, t.stop())
		for range lines { // until the log has ended
		}
		return err
	}
	go func() { // the process must not wait for a reader of its log
		for line := range lines {
			t.read(line)
		}
	}()
	return nil
}

func (t *tor) makeDir() error {
	if err := errors.Join(os.RemoveAll(t.dir), os.Mkdir(t.dir, 0o700)); err != nil || t.user == 0 {
		return err
	}
	return os.Chown(t.dir, t.user, t.user)
}

// args returns the arguments of tor(1). They replace options of the torrc.
func (t *tor) args() ([]string, error) {
	at, err := url.Parse(t.proxy)
	if err != nil || at.Host == "" {
		return nil, refusal.Invalid("proxy %.80q: not the SOCKS port of Tor; correct the mode", t.proxy)
	}
	return []string{
		"--defaults-torrc", os.DevNull, "--ignore-missing-torrc", "-f", t.torrc,
		"--DataDirectory", t.dir, "--SocksPort", at.Host, "--ControlPort", "0", "--Log", "notice stdout", "--SafeLogging", "1",
		"--RunAsDaemon", "0", "--ClientOnly", "1", "--AvoidDiskWrites", "1", "--MaxMemInQueues", "64 MB",
	}, nil
}

// run starts the process and returns the lines of its log.
func (t *tor) run(args []string) (lines <-chan string, err error) {
	log, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(t.program, args...)
	cmd.Dir, cmd.Env, cmd.Stdout, cmd.Stderr = "/", []string{"HOME=" + t.dir}, w, w
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if t.user != 0 {
		cmd.SysProcAttr.Credential = &syscall.Credential{Uid: uint32(t.user), Gid: uint32(t.user)}
	}
	started, out := make(chan error, 1), make(chan string, 64)
	t.ended = make(chan struct{})
	go func() {
		// The signal Pdeathsig comes when the thread that started the process ends.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		defer close(t.ended)
		err := cmd.Start()
		w.Close()
		started <- err
		if err != nil {
			return
		}
		_ = cmd.Wait() // its log says why it ended
	}()
	if err := <-started; err != nil {
		log.Close()
		return nil, err
	}
	t.process = cmd.Process
	go func() {
		defer log.Close()
		defer close(out)
		readLines(log, out)
	}()
	return out, nil
}

// readLines sends the lines of r. It cuts long ones.
func readLines(r io.Reader, out chan<- string) {
	in := bufio.NewReaderSize(r, maxTorLine)
	for {
		line, cut, err := in.ReadLine()
		if err != nil {
			return
		}
		out <- string(line)
		for cut && err == nil {
			_, cut, err = in.ReadLine()
		}
	}
}

// wait reads the log until Tor is connected.
func (t *tor) wait(ctx context.Context, lines <-chan string) error {
	t.doing = "starting"
	timer := time.NewTimer(t.patience)
	defer timer.Stop()
	for {
		select {
		case line, ok := <-lines:
			if !ok {
				return refusal.New(cas.ErrUnreachable, "Tor has ended, at %d %% (%s); its last warnings: %s", t.percent, t.doing, t.lastWords())
			}
			if t.read(line) {
				timer.Reset(t.patience)
			}
			if t.percent == 100 {
				return nil
			}
		case <-timer.C:
			return t.failure(fmt.Sprintf("no progress for %v", t.patience))
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// lastWords returns the last warnings of Tor, the older one first.
func (t *tor) lastWords() string {
	if t.last[1] == "" {
		return cmp.Or(t.last[0], "none")
	}
	return t.last[1] + "; " + t.last[0]
}

// failure returns why Tor is not connected, with its own last warnings and the usual causes.
func (t *tor) failure(what string) error {
	text := fmt.Sprintf("not connected: %s, at %d %% (%s)", what, t.percent, t.doing)
	if t.last[0] != "" {
		text += "; its last warnings: " + t.lastWords()
	}
	return refusal.New(cas.ErrUnreachable, "%s; Tor needs a clock that is right to some hours (this one says %s), and a network that lets it through, or bridges (phase-image --torrc)",
		text, t.now().UTC().Format("2006-01-02 15:04 UTC"))
}

var (
	torLine      = regexp.MustCompile(`^\S+ +\d+ [0-9:.]+ \[(\w+)\] (.*)$`)
	torBootstrap = regexp.MustCompile(`^Bootstrapped (\d{1,3})%(?: \([a-z_]+\))?: (.{1,80})`)
)

// read handles a line of the log. It reports whether Tor has made progress.
func (t *tor) read(line string) bool {
	m := torLine.FindStringSubmatch(line)
	if m == nil {
		return false
	}
	if at := torBootstrap.FindStringSubmatch(m[2]); at != nil && m[1] == "notice" {
		percent, _ := strconv.Atoi(at[1]) // at most three digits
		progress := percent > t.percent
		t.percent, t.doing = min(percent, 100), lowerFirst(report.Printable(at[2]))
		t.say("tor: %d %%: %s", t.percent, t.doing)
		return progress
	}
	if m[1] == "warn" || m[1] == "err" {
		t.warn(report.Printable(m[2][:min(len(m[2]), maxTorWords)]))
	}
	return false
}

func (t *tor) warn(words string) {
	if words == t.last[0] {
		return
	}
	t.last = [2]string{words, t.last[0]}
	if t.warnings++; t.warnings <= maxWarnings {
		t.say("tor: warning: %s", words)
	}
}

// lowerFirst returns a text with a lower-case first letter, unless its second letter is upper-case too.
func lowerFirst(s string) string {
	if len(s) > 1 && s[0] >= 'A' && s[0] <= 'Z' && !(s[1] >= 'A' && s[1] <= 'Z') {
		return string(s[0]|0x20) + s[1:]
	}
	return s
}

// stop ends the process and removes its data directory.
func (t *tor) stop() error {
	if t.process != nil {
		_ = t.process.Signal(unix.SIGTERM)
		select {
		case <-t.ended:
		case <-time.After(torStop):
			_ = t.process.Kill()
			<-t.ended
		}
		t.process = nil
	}
	return os.RemoveAll(t.dir)
}
