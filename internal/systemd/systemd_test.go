package systemd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
)

// TestMain runs the tests, or a service that systemd starts.
func TestMain(m *testing.M) {
	if os.Getenv("SERVICE") == "" {
		os.Exit(m.Run())
	}
	if os.Getenv("SERVICE") == "ours" {
		os.Setenv("LISTEN_PID", fmt.Sprint(os.Getpid()))
	}
	l, err := Listener()
	if err != nil || l == nil {
		fmt.Println(l, err, os.Getenv("LISTEN_FDS"))
		return
	}
	conn, err := l.Accept()
	if err == nil {
		_, err = io.WriteString(conn, "from the service")
	}
	if err != nil {
		fmt.Println(err)
	}
}

// service starts the test program as a service that gets sockets.
func service(t *testing.T, whose string, files ...*os.File) *exec.Cmd {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self)
	cmd.ExtraFiles = files
	cmd.Env = append(os.Environ(), "SERVICE="+whose, "LISTEN_PID=1", fmt.Sprint("LISTEN_FDS=", len(files)))
	return cmd
}

func TestAServiceTakesTheSocketOfSystemd(t *testing.T) {
	path := filepath.Join(t.TempDir(), "socket")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	f, err := l.File()
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	cmd := service(t, "ours", f)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	conn, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	said, err := io.ReadAll(conn)
	if err := errors.Join(err, cmd.Wait()); err != nil || string(said) != "from the service" {
		t.Errorf("%q, %v", said, err)
	}
}

func TestOtherSocketsAreNotTaken(t *testing.T) {
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	for name, c := range map[string]struct {
		cmd  *exec.Cmd
		want string
	}{
		"of another process": {service(t, "other", null), "<nil> <nil> \n"},
		"none":               {service(t, "ours"), "<nil> <nil> \n"},
		"two":                {service(t, "ours", null, null), "<nil> systemd passes 2 sockets; this service takes one: remove a ListenStream= of its socket unit \n"},
		"not a socket":       {service(t, "ours", null), "<nil> systemd passes a file that is no listening socket; the socket unit needs a ListenStream= \n"},
	} {
		out, err := c.cmd.CombinedOutput()
		if err != nil || string(out) != c.want {
			t.Errorf("%s: %v, got %q, want %q", name, err, out, c.want)
		}
	}
}

func TestSystemdHearsReadyAliveAndStopping(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "notify")
	l, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: socket, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	t.Setenv("NOTIFY_SOCKET", socket)
	t.Setenv("WATCHDOG_USEC", "200000")
	n := NewNotifier(slog.New(slog.DiscardHandler))
	ctx, cancel := context.WithCancel(t.Context())
	n.Ready(ctx)
	for _, want := range []string{"READY=1", "WATCHDOG=1", "WATCHDOG=1"} {
		buf := make([]byte, 256)
		l.SetReadDeadline(time.Now().Add(time.Minute))
		k, err := l.Read(buf)
		if err != nil || string(buf[:k]) != want {
			t.Errorf("%q, %v; want %q", buf[:k], err, want)
		}
	}
	cancel()
	n.Stop()
}
