package main

import (
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/phaseboot/phaseboot/internal/netns"
	"github.com/phaseboot/phaseboot/plasm"
	"github.com/phaseboot/phaseboot/plasm/api"
)

// activated returns plasmd serve as systemd starts it, with sockets.
func activated(dir string, files []*os.File, args ...string) *exec.Cmd {
	script := `LISTEN_PID=$$ exec plasmd serve --log-level warn "$@"`
	cmd := exec.Command("sh", append([]string{"-c", script, "sh", "--state", filepath.Join(dir, "state"), "--socket", filepath.Join(dir, "unused")}, args...)...)
	cmd.Env = append(os.Environ(), "LISTEN_FDS="+string(rune('0'+len(files))))
	cmd.ExtraFiles = files
	return cmd
}

// A client that connects before the daemon has started is answered, and the socket outlives the daemon.
func TestServeTakesTheSocketOfSystemd(t *testing.T) {
	dir := t.TempDir()
	s := &served{t: t, socket: filepath.Join(dir, "s")}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: s.socket})
	check(t, err)
	l.SetUnlinkOnClose(false)
	passed, err := l.File()
	check(t, err)
	check(t, l.Close())
	states, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: filepath.Join(dir, "notify")})
	check(t, err)
	defer states.Close()
	s.connect()
	accepted := make(chan api.Job, 1)
	go func() {
		j, err := s.submit(exits0)
		if err != nil {
			t.Error(err)
		}
		accepted <- j
	}()
	s.cmd = activated(dir, []*os.File{passed})
	s.cmd.Env = append(s.cmd.Env, "NOTIFY_SOCKET="+states.LocalAddr().String())
	s.cmd.Stderr = &s.log
	check(t, s.cmd.Start())
	t.Cleanup(func() { _ = s.cmd.Process.Kill() })
	if j := s.end((<-accepted).ID); j.Reason != plasm.ReasonExit {
		t.Errorf("ended as %+v\n%s", j, &s.log)
	}
	notified := func() string {
		buf := make([]byte, 100)
		check(t, states.SetReadDeadline(time.Now().Add(30*time.Second)))
		n, err := states.Read(buf)
		check(t, err)
		return string(buf[:n])
	}
	if got := notified(); got != "READY=1" {
		t.Errorf("systemd is told %q", got)
	}
	_ = s.cmd.Process.Signal(syscall.SIGTERM)
	if err := s.cmd.Wait(); err != nil {
		t.Errorf("%v\n%s", err, &s.log)
	}
	if got := notified(); got != "STOPPING=1" {
		t.Errorf("systemd is told %q", got)
	}
	for name, want := range map[string]bool{"s": true, "unused": false} {
		if _, err := os.Lstat(filepath.Join(dir, name)); (err == nil) != want {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// What cannot start says why in one line, and leaves nothing.
func TestServeThatCannotStart(t *testing.T) {
	dir := t.TempDir()
	plain, err := os.Create(filepath.Join(dir, "plain"))
	check(t, err)
	defer plain.Close()
	for name, c := range map[string]struct {
		cmd   *exec.Cmd
		code  int
		words string
	}{
		"two sockets":        {activated(dir, []*os.File{plain, plain}), 1, "this service takes one"},
		"no socket":          {activated(dir, []*os.File{plain}), 1, "needs a ListenStream="},
		"a file as a socket": {activated(dir, nil, "--socket", plain.Name()), 1, "another file has this name"},
		"private on a disk":  {activated(dir, nil, "--private", "--state", "/proc/self/state"), 2, "state /proc/self/state: on a disk, and in private mode nothing may be written to one"},
		"proxy and peer":     {activated(dir, nil, "--mode", "tor", "--peer", "/ip4/192.0.2.1/tcp/1/p2p/12D3KooWRQYxvmt7VyfsDzi3oQfqT5Roqm7M7Uom9xwbmYb5Ktrj"), 2, "for mirrors only"},
		"a mirror":           {activated(dir, nil, "--mirror", "example"), 2, "example"},
		"a peer":             {activated(dir, nil, "--peer", "example"), 2, "example"},
		"no time":            {activated(dir, nil, "--fetch-timeout", "0s"), 2, "--fetch-timeout 0s: must be positive"},
	} {
		var exit *exec.ExitError
		out, err := c.cmd.CombinedOutput()
		if !errors.As(err, &exit) || exit.ExitCode() != c.code || strings.Count(string(out), "\n") != 1 || !strings.Contains(string(out), c.words) {
			t.Errorf("%s: %v, want exit code %d and %q\n%s", name, err, c.code, c.words, out)
		}
		if c.code == 2 {
			if _, err := os.Stat(filepath.Join(dir, "state")); err == nil {
				t.Errorf("%s: the state was made", name)
			}
		}
		check(t, os.RemoveAll(filepath.Join(dir, "state")))
	}
}

// On a full disk a job is refused in one line, one that runs gets its outcome, and when there is space again all is
// well.
func TestServeOnAFullDisk(t *testing.T) {
	if !netns.Inside(t) { // for its mounts
		return
	}
	dir := t.TempDir()
	check(t, unix.Mount("small-disk", dir, "tmpfs", 0, "size=6m"))
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
	s := serveIn(t, dir)
	running, err := s.submit(endless)
	check(t, err)
	for strings.Contains(s.get(api.Jobs+"/"+running.ID), `"state":"queued"`) {
		time.Sleep(5 * time.Millisecond)
	}
	ballast := filepath.Join(dir, "ballast")
	f, err := os.Create(ballast)
	check(t, err)
	for size := 1 << 16; size > 0; {
		if _, err := f.Write(make([]byte, size)); err != nil {
			size /= 2
		}
	}
	f.Close()
	big := filepath.Join(t.TempDir(), "big.wasm")
	check(t, os.WriteFile(big, append(slices.Clone(exits0), "\x00\x84\x80\x04\x01x"+strings.Repeat("x", 65_538)...), 0o600)) // a custom section
	full := func(what string, args ...string) {
		t.Helper()
		out, err := exec.Command("plasmd", args...).CombinedOutput()
		if exitCodeOf(err) != 1 || strings.Count(string(out), "\n") != 1 || !strings.Contains(string(out), "free some space") {
			t.Errorf("%s: %v\n%s", what, err, out)
		}
	}
	full("a job", "submit", "--socket", s.socket, big)
	full("another daemon", "serve", "--log-level", "error", "--state", filepath.Join(dir, "other"), "--socket", filepath.Join(t.TempDir(), "other"))
	resp, err := s.http.Post("http://plasmd"+api.Jobs+"/"+running.ID+api.Cancel, "", nil)
	check(t, err)
	resp.Body.Close()
	if j := s.end(running.ID); j.Reason != api.ReasonCancelled {
		t.Errorf("the job that ran: %+v", j)
	}
	check(t, os.Remove(ballast))
	if out, err := exec.Command("plasmd", "submit", "--socket", s.socket, big).CombinedOutput(); err != nil {
		t.Errorf("with space: %v\n%s", err, out)
	}
	_ = s.cmd.Process.Signal(syscall.SIGTERM)
	if err := s.cmd.Wait(); err != nil {
		t.Errorf("%v\n%s", err, &s.log)
	}
}

// The report of a boot names the mirrors that are asked for modules.
func TestMirrorsOfTheBootReport(t *testing.T) {
	report := `{"sources":[
		{"name":"http://192.0.2.1:8080","kind":"mirror","blocks":7},
		{"name":"https://…@mirror.example","kind":"mirror","blocks":7},
		{"name":"https://user:secret@mirror.example","kind":"mirror","blocks":7},
		{"name":"file:///media/stick","kind":"mirror","blocks":7},
		{"name":"http://192.0.2.2","kind":"mirror","blocks":0},
		{"name":"http://192.0.2.3","kind":"mirror","blocks":7,"banned":true},
		{"name":"12D3KooWRQYxvmt7VyfsDzi3oQfqT5Roqm7M7Uom9xwbmYb5Ktrj","kind":"mdns","blocks":7},
		{"name":"no URL\n","kind":"mirror","blocks":7},
		{"name":"https://mirror.example/phase","kind":"mirror","blocks":1}]}`
	want := []string{"http://192.0.2.1:8080", "https://mirror.example/phase"}
	if diff := cmp.Diff(want, bootMirrors([]byte(report))); diff != "" {
		t.Error(diff)
	}
	for _, bad := range []string{"", "[]", `{"sources":7}`, report[:100]} {
		if got := bootMirrors([]byte(bad)); got != nil {
			t.Errorf("%q: %q", bad, got)
		}
	}
}
