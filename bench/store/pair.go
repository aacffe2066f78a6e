package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/phaseboot/phaseboot/cas"
)

// newBytes prints the bytes of the second root filesystem that a machine with the first one
// must fetch.
func (b *bench) newBytes(ctx context.Context) error {
	first, second := filepath.Join(b.pair, "first.squashfs"), filepath.Join(b.pair, "second.squashfs")
	var sizes [2]int64
	for i, name := range []string{first, second} {
		fi, err := os.Stat(name)
		if err != nil {
			return fmt.Errorf("pair: %w; run: scripts/bench-pair.sh %s", err, b.pair)
		}
		sizes[i] = fi.Size()
	}
	fmt.Printf("\n2. new bytes of the next release, %.1f to %.1f MB of squashfs, index included\n", float64(sizes[0])/1e6, float64(sizes[1])/1e6)
	delta := b.path("delta")
	if _, err := tool(ctx, "xdelta3", "-e", "-9", "-f", "-s", first, second, delta); err != nil {
		return err
	}
	fi, err := os.Stat(delta)
	if err != nil {
		return err
	}
	best := fi.Size()
	row := func(name string, n int64, requests string) {
		fmt.Printf("  %-44s %10d bytes   %5.2f x xdelta3   %s\n", name, n, float64(n)/float64(best), requests)
	}
	row("xdelta3 -9, with both files at hand", best, "")
	for _, chunker := range chunkers() {
		n, err := b.ourNew(ctx, chunker, first, second)
		if err != nil {
			return err
		}
		row(chunker, n.NewData, fmt.Sprintf("%d new blocks", n.Blocks))
	}
	for _, size := range []string{"65536", "16384"} {
		n, err := b.casyncNew(ctx, size, first, second)
		if err != nil {
			return err
		}
		row("casync, chunks of "+size+", compressed", n, "")
	}
	n, err := b.zsyncNew(ctx, first, second)
	if err != nil {
		return err
	}
	row("zsync, its control file included", n, "")
	return nil
}

// chunkers returns the default chunker, and plain content-defined chunkers of other sizes.
func chunkers() []string {
	all := []string{cas.DefaultChunker}
	for _, name := range []string{"fastcdc-v1.0.0", "jc-v1.0.0"} {
		for _, kib := range []int{8, 16, 32, 64} {
			all = append(all, fmt.Sprintf("%s-%d-%d-%d", name, kib<<8, kib<<10, kib<<12))
		}
	}
	return all
}

func (b *bench) ourNew(ctx context.Context, chunker, first, second string) (result, error) {
	store := b.path("pair")
	defer os.RemoveAll(store)
	if _, err := b.ours(ctx, "ingest", store, first, chunker); err != nil {
		return result{}, err
	}
	return b.ours(ctx, "ingest", store, second, chunker)
}

func (b *bench) casyncNew(ctx context.Context, size, first, second string) (int64, error) {
	store := b.path("pair.castr")
	defer os.RemoveAll(store)
	var total [2]int64
	for i, name := range []string{first, second} {
		index := b.path(fmt.Sprintf("pair%d.caibx", i))
		if _, err := tool(ctx, "casync", "make", "--chunk-size="+size, "--store="+store, index, name); err != nil {
			return 0, err
		}
		n, err := treeSize(store)
		if err != nil {
			return 0, err
		}
		fi, err := os.Stat(index)
		if err != nil {
			return 0, err
		}
		total[i] = n
		if i == 1 {
			total[i] += fi.Size()
		}
	}
	return total[1] - total[0], nil
}

func treeSize(dir string) (int64, error) {
	var sum int64
	err := filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		fi, err := d.Info()
		if err == nil {
			sum += fi.Size()
		}
		return err
	})
	return sum, err
}

// zsyncNew fetches the second file with zsync from nginx and counts the bytes of the
// bodies. A net/http server would not do: zsync requests many ranges at once and never
// stops reading the answer of net/http.
func (b *bench) zsyncNew(ctx context.Context, first, second string) (int64, error) {
	dir := b.path("zsync")
	defer os.RemoveAll(dir)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return 0, err
	}
	served, err := filepath.Abs(second)
	if err == nil {
		err = os.Symlink(served, filepath.Join(dir, "second"))
	}
	if err != nil {
		return 0, err
	}
	if _, err := tool(ctx, "zsyncmake", "-u", "second", "-o", filepath.Join(dir, "second.zsync"), second); err != nil {
		return 0, err
	}
	return sentByNginx(ctx, dir, func(url string) error {
		_, err := tool(ctx, "timeout", "60", "env", "-u", "http_proxy", "zsync", "-q", "-i", first, "-o", filepath.Join(dir, "fetched"), url+"/second.zsync")
		return err
	})
}

const nginxConf = `daemon off; master_process off; pid nginx.pid;
events {}
http {
	log_format sent $body_bytes_sent;
	access_log sent.log sent;
	client_body_temp_path t; proxy_temp_path t; fastcgi_temp_path t; uwsgi_temp_path t; scgi_temp_path t;
	server { listen %s; root .; }
}
`

// sentByNginx serves dir with nginx while fetch runs, and returns the bytes of all bodies.
func sentByNginx(ctx context.Context, dir string, fetch func(url string) error) (int64, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	dir, err := filepath.Abs(dir)
	if err != nil {
		return 0, err
	}
	addr, err := freeAddr()
	if err != nil {
		return 0, err
	}
	conf := filepath.Join(dir, "nginx.conf")
	if err := os.WriteFile(conf, fmt.Appendf(nil, nginxConf, addr), 0o644); err != nil {
		return 0, err
	}
	cmd := exec.CommandContext(ctx, "/usr/sbin/nginx", "-p", dir, "-c", conf, "-e", filepath.Join(dir, "error.log"))
	if err := cmd.Start(); err != nil {
		return 0, fmt.Errorf("%w; run: scripts/deps-check.sh --install bench", err)
	}
	fetchErr := errors.Join(listening(ctx, addr), fetch("http://"+addr))
	if err := errors.Join(fetchErr, cmd.Process.Signal(syscall.SIGQUIT), cmd.Wait()); err != nil {
		return 0, err
	}
	sent, err := os.ReadFile(filepath.Join(dir, "sent.log"))
	if err != nil {
		return 0, err
	}
	var sum int64
	for line := range strings.Lines(string(sent)) {
		n, err := strconv.ParseInt(strings.TrimSpace(line), 10, 64)
		if err != nil {
			return 0, err
		}
		sum += n
	}
	return sum, nil
}

func freeAddr() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	return l.Addr().String(), l.Close()
}

// listening waits until a server accepts connections at addr.
func listening(ctx context.Context, addr string) error {
	for {
		c, err := net.Dial("tcp", addr)
		if err == nil {
			return c.Close()
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(10 * time.Millisecond):
		}
	}
}
