package daemon

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/phaseboot/phaseboot/plasm/api"
)

// dial connects to a server from an address of the loopback network, and sends the head of a request.
func dial(t *testing.T, s *httptest.Server, from, head string) net.Conn {
	t.Helper()
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}
	conn, err := d.DialContext(t.Context(), "tcp", s.Listener.Addr().String())
	check(t, err)
	t.Cleanup(func() { conn.Close() })
	_, err = io.WriteString(conn, head)
	check(t, err)
	return conn
}

// Clients that have signed nothing, and send nothing, take no place from a submitter at another address.
func TestSubmissionsThatSayNothingShutNobodyOut(t *testing.T) {
	w := start(t, t.TempDir(), nil)
	s := httptest.NewServer(w.d.Network())
	t.Cleanup(s.Close)
	for range 3 * networkUploads {
		dial(t, s, "127.0.0.2", "POST "+api.Jobs+" HTTP/1.1\r\nHost: x\r\nContent-Type: multipart/form-data; boundary=x\r\nContent-Length: 1000\r\n\r\n")
	}
	for until := time.Now().Add(5 * time.Second); time.Now().Before(until); time.Sleep(time.Millisecond) {
		w.d.opening.mu.Lock()
		n := w.d.opening.taken
		w.d.opening.mu.Unlock()
		if n == firstOfOne {
			break
		}
	}
	req := form("order", sign(t, ciKey, newOrder("job", "m", "")), "module", "m")
	if status, text, err := post(s.Client(), s.URL, req); status != http.StatusAccepted || err != nil {
		t.Errorf("an honest job: %d %s %v", status, text, err)
	}
}

// A client that announces a body and sends none does not hold its connection.
func TestABodyThatDoesNotComeEndsTheConnection(t *testing.T) {
	w := start(t, t.TempDir(), nil)
	w.d.bodyTime = 50 * time.Millisecond
	s := httptest.NewServer(w.d.Network())
	t.Cleanup(s.Close)
	id := ask(w.d.Local(), form("job", request("hello"), "module", "m")).job.ID
	w.done(id)
	for name, line := range map[string]string{
		"cancel": "POST " + api.Jobs + "/" + id + api.Cancel, "not a form": "POST " + api.Jobs, "output": "GET " + api.Jobs + "/" + id + api.Output,
		"followed output": "GET " + api.Jobs + "/" + id + api.Output + "?follow=1", "show": "GET " + api.Jobs + "/" + id,
	} {
		t.Run(name, func(t *testing.T) {
			conn := dial(t, s, "127.0.0.1", fmt.Sprintf("%s HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n", line))
			check(t, conn.SetReadDeadline(time.Now().Add(5*time.Second)))
			if answer, err := io.ReadAll(conn); err != nil {
				t.Errorf("the connection stays: %v after %q", err, answer)
			}
		})
	}
}
