package main

import (
	"net"
	"net/http"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"
)

// With 64 open files and 120 silent connections the daemon serves and is healthy.
func TestIdleConnectionsGoWhenFilesAreFew(t *testing.T) {
	dir, release := published(t)
	d := startBy(t, dir, exec.Command("sh", "-c", `ulimit -n 64; exec phase-publish "$@"`, "sh",
		"serve", "--store", "store", "--repo", "repo", "--online-key", "online.key", "--ipns-key", "ipns.key",
		"--http", "127.0.0.1:0", "--metrics", "127.0.0.1:0", "--listen", "/ip4/127.0.0.1/tcp/0", "--mdns=false", "--dht", "off", "--log-level", "debug"))
	address := strings.TrimPrefix(d.ready.HTTP[0], "http://")
	var idle []net.Conn
	for range 120 {
		conn, err := net.Dial("tcp", address)
		check(t, err)
		defer conn.Close()
		idle = append(idle, conn)
	}
	web := &http.Client{Timeout: time.Minute}
	kernel := release.Artifacts[0].CID.String()
	for _, url := range []string{d.ready.HTTP[0] + "/ipfs/" + kernel + "?format=raw", d.ready.Metrics[0] + "/healthz"} {
		resp, err := web.Get(url)
		check(t, err)
		resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			t.Errorf("%s: %s", url, resp.Status)
		}
	}
	web.CloseIdleConnections()
	for _, conn := range idle {
		conn.Close() // the daemon gives a connection without a request 5 s when it stops
	}
	d.stop(syscall.SIGTERM)
	for _, line := range []string{
		"level=WARN msg=\"limit of open files too low for --max-conns\" limit=64 requested=2048 used=16 remedy=",
		"level=DEBUG msg=request via=http from=127.0.0.1:",
		"method=GET url=\"/ipfs/" + kernel + "?format=raw\" status=200 bytes=",
	} {
		if !strings.Contains(d.log.String(), line) {
			t.Errorf("not in the log: %q", line)
		}
	}
}
