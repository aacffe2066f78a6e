package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"
)

const nginxConf = `daemon off; master_process off; user root; pid %[1]s/pid; error_log stderr;
events { worker_connections 4096; }
http {
	access_log off; sendfile on; tcp_nopush on; default_type application/octet-stream;
	client_body_temp_path %[1]s; proxy_temp_path %[1]s; fastcgi_temp_path %[1]s; uwsgi_temp_path %[1]s; scgi_temp_path %[1]s;
	server { listen %[2]s; root %[3]s; }
}
`

// nginx serves a folder at HOST:PORT in a namespace. It runs as one process, so that the
// processor time of that process is complete.
func (t *tool) nginx(ctx context.Context, ns, addr, root string) (*process, error) {
	dir, err := os.MkdirTemp(t.dir, "nginx-")
	if err != nil {
		return nil, err
	}
	conf := filepath.Join(dir, "conf")
	if err := os.WriteFile(conf, fmt.Appendf(nil, nginxConf, dir, addr, root), 0o600); err != nil {
		return nil, err
	}
	p, err := start(ctx, ns, nil, "nginx", "-c", conf, "-p", dir)
	if err != nil {
		return nil, err
	}
	// nginx writes its pid file when it listens
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		if _, err := os.Stat(filepath.Join(dir, "pid")); err == nil {
			return p, nil
		} else if !errors.Is(err, os.ErrNotExist) || time.Now().After(deadline) {
			p.stop()
			return nil, fmt.Errorf("nginx: not ready: %w: %s", err, p.log.String())
		}
	}
}

// curl starts a fetch of a URL to a file, after the barrier unless g is nil.
func (t *tool) curl(ctx context.Context, ns string, g *barrier, url, out string) (*process, error) {
	line := []string{"curl", "--silent", "--show-error", "--fail", "--noproxy", "*", "--output", out, url}
	if t.disk {
		line = append([]string{"sh", "-c", `"$@" && sync "$0"`, out}, line...)
	}
	return start(ctx, ns, g, line[0], line[1:]...)
}
