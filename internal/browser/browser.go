package browser

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"time"
)

// A Browser is a running Chromium.
type Browser struct {
	pipe   *pipe
	cmd    *exec.Cmd
	dir    string
	output *lockedBuffer
	files  []*os.File
	done   chan struct{}
}

// endTimeout is how long a browser may take to end.
const endTimeout = 5 * time.Second

// Start starts Chromium with an empty profile. It reaches loopback and the given hosts, and no other. The error
// names the package to install if it is missing.
func Start(ctx context.Context, hosts ...string) (*Browser, error) {
	program, err := exec.LookPath("chromium")
	if err != nil {
		return nil, errors.New("chromium: not found; run scripts/deps-check.sh --install test")
	}
	dir, err := os.MkdirTemp("", "chromium")
	if err != nil {
		return nil, err
	}
	reached := "MAP * ~NOTFOUND"
	for _, host := range append([]string{"localhost", "127.0.0.1"}, hosts...) {
		reached += ", EXCLUDE " + host
	}
	b := &Browser{dir: dir, output: &lockedBuffer{}, done: make(chan struct{})}
	args := []string{
		"--headless=new", "--remote-debugging-pipe", "--user-data-dir=" + filepath.Join(dir, "profile"), "--host-resolver-rules=" + reached,
		"--no-first-run", "--no-default-browser-check", "--disable-gpu", "--disable-dev-shm-usage", "--disable-extensions", "--disable-sync", "--disable-background-networking",
		"--disable-component-update", "--disable-default-apps", "--disable-client-side-phishing-detection", "--disable-breakpad", "--metrics-recording-only", "--no-pings",
		"--disable-features=Translate,OptimizationHints,MediaRouter,DialMediaRouteProvider", "--password-store=basic", "--use-mock-keychain", "--hide-scrollbars", "--force-color-profile=srgb", "--mute-audio",
	}
	if os.Geteuid() == 0 {
		args = append(args, "--no-sandbox") // it refuses to start as root with one
	}
	if err := b.start(exec.CommandContext(ctx, program, append(args, "about:blank")...)); err != nil {
		return nil, errors.Join(fmt.Errorf("chromium: %w", err), os.RemoveAll(dir))
	}
	return b, nil
}

// start starts the program with its pipes: it reads commands from descriptor 3 and writes to 4.
func (b *Browser) start(cmd *exec.Cmd) error {
	commands, toBrowser, err := os.Pipe()
	if err != nil {
		return err
	}
	fromBrowser, answers, err := os.Pipe()
	if err != nil {
		return errors.Join(err, commands.Close(), toBrowser.Close())
	}
	cmd.ExtraFiles = []*os.File{commands, answers}
	cmd.Stdout, cmd.Stderr = b.output, b.output
	cmd.Env = append(os.Environ(), "HOME="+b.dir, "XDG_CONFIG_HOME="+b.dir, "XDG_CACHE_HOME="+b.dir, "LC_ALL=C.UTF-8", "DBUS_SESSION_BUS_ADDRESS=disabled:")
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // its helpers end with it
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = endTimeout
	err = cmd.Start()
	commands.Close()
	answers.Close()
	b.files = []*os.File{toBrowser, fromBrowser}
	if err != nil {
		return errors.Join(err, toBrowser.Close(), fromBrowser.Close())
	}
	b.cmd, b.pipe = cmd, newPipe(fromBrowser, toBrowser)
	go func() {
		cmd.Wait()
		close(b.done)
	}()
	return nil
}

// Output returns what Chromium has printed.
func (b *Browser) Output() string { return b.output.String() }

// Close ends the browser and removes its profile.
func (b *Browser) Close() error {
	ctx, cancel := context.WithTimeout(context.Background(), endTimeout)
	defer cancel()
	b.pipe.call(ctx, "", "Browser.close", struct{}{}, nil) // it may end before it answers
	select {
	case <-b.done:
	case <-ctx.Done():
	}
	syscall.Kill(-b.cmd.Process.Pid, syscall.SIGKILL) // what is left of it
	<-b.done
	for _, f := range b.files {
		f.Close()
	}
	return os.RemoveAll(b.dir)
}

// A lockedBuffer keeps the first 64 KiB that are written to it.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.b.Len() < 64<<10 {
		l.b.Write(p)
	}
	return len(p), nil
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}
