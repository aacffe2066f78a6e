package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// idleFor is how long the daemon has no work before its memory is read.
const idleFor = 2 * time.Second

// idle measures the memory of a daemon that waits for jobs on its socket.
func (b *bench) idle(ctx context.Context) error {
	plasmd := filepath.Join(b.bin, "plasmd")
	if err := exec.CommandContext(ctx, plasmd, "serve", "--help").Run(); err != nil {
		fmt.Printf("\nThe daemon is not measured: %s has no serve\n", plasmd)
		return nil
	}
	socket := filepath.Join(b.dir, "plasmd.sock")
	cmd := exec.CommandContext(ctx, plasmd, "serve", "--state", filepath.Join(b.dir, "state"), "--socket", socket)
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	started := time.Now()
	if err := cmd.Start(); err != nil {
		return err
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	ready, status, err := watchIdle(ctx, cmd.Process.Pid, socket, started, ended)
	if err == nil {
		_ = cmd.Process.Signal(syscall.SIGTERM) // it has ended if this fails
		err = <-ended
	}
	if err != nil {
		return fmt.Errorf("plasmd serve: %w\n%s", err, &out)
	}
	fmt.Printf("\nAn idle daemon: ready after %.0f ms; resident memory:\n", ms(ready))
	for line := range strings.Lines(status) {
		if name, value, _ := strings.Cut(line, ":"); name == "VmRSS" || name == "RssAnon" || name == "RssFile" || name == "VmHWM" {
			fmt.Printf("  %-8s %s\n", name, strings.TrimSpace(value))
		}
	}
	return nil
}

// watchIdle waits until the daemon accepts connections, and then reads its status after a while.
func watchIdle(ctx context.Context, pid int, socket string, started time.Time, ended <-chan error) (ready time.Duration, status string, err error) {
	for ready == 0 {
		if conn, err := net.Dial("unix", socket); err == nil {
			ready = time.Since(started)
			conn.Close()
		}
		if err := pause(ctx, 5*time.Millisecond, ended); err != nil {
			return 0, "", err
		}
	}
	if err := pause(ctx, idleFor, ended); err != nil {
		return 0, "", err
	}
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	return ready, string(data), err
}

// pause returns after a time, with an error if the daemon or the measurement ends before.
func pause(ctx context.Context, d time.Duration, ended <-chan error) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case err := <-ended:
		return errors.Join(errors.New("ended by itself"), err)
	case <-time.After(d):
		return nil
	}
}
