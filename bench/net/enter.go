package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// insideKey names the environment variable that marks the process in the new namespaces.
const insideKey = "PHASE_BENCH_NET_INSIDE"

func inside() bool { return os.Getenv(insideKey) != "" }

// enclose runs this program again in new namespaces, which end with it. An interrupt is
// forwarded, and the second process gets 20 s to clean up.
func enclose(ctx context.Context) error {
	runtime.LockOSThread() // Pdeathsig kills the second process when this thread ends
	self, err := os.Executable()
	if err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, self, os.Args[1:]...)
	cmd.Env = append(os.Environ(), insideKey+"=1")
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = 20 * time.Second
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWNS | syscall.CLONE_NEWNET | syscall.CLONE_NEWPID,
		Pdeathsig:  syscall.SIGKILL,
	}
	if os.Geteuid() != 0 {
		cmd.SysProcAttr.Cloneflags |= syscall.CLONE_NEWUSER
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{HostID: os.Geteuid(), Size: 1}}
		cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{HostID: os.Getegid(), Size: 1}}
	}
	err = cmd.Run()
	if exit := new(exec.ExitError); errors.As(err, &exit) {
		os.Exit(max(exit.ExitCode(), 1)) // the second process printed its error
	}
	if errors.Is(err, syscall.EPERM) {
		return fmt.Errorf("namespaces: %w; run it as root", err)
	}
	return err
}

// enter prepares the new namespaces and makes the working folder. leave removes the folder.
func (t *tool) enter() (leave func(), err error) {
	if t.self, err = os.Executable(); err != nil {
		return nil, err
	}
	for _, dir := range []*string{&t.bin, &t.dir, &t.pair} {
		if *dir, err = filepath.Abs(*dir); err != nil {
			return nil, err
		}
	}
	if err := os.MkdirAll(t.dir, 0o755); err != nil {
		return nil, err
	}
	if t.dir, err = os.MkdirTemp(t.dir, "net-"); err != nil {
		return nil, err
	}
	leave = func() {
		unix.Unmount(t.path("memory"), unix.MNT_DETACH)
		os.RemoveAll(t.dir)
	}
	if err := t.mounts(); err != nil {
		leave()
		return nil, err
	}
	return leave, nil
}

func (t *tool) mounts() error {
	if err := os.MkdirAll(t.path("memory"), 0o755); err != nil {
		return err
	}
	for _, m := range []struct {
		what, where string
		flags       uintptr
	}{
		{"", "/", unix.MS_REC | unix.MS_PRIVATE},
		{"proc", "/proc", 0},
		{"tmpfs", "/run", 0}, // ip keeps names of namespaces in /run/netns
		{"tmpfs", t.path("memory"), 0},
	} {
		if err := unix.Mount(m.what, m.where, m.what, m.flags, ""); err != nil {
			return fmt.Errorf("mount %s: %w", m.where, err)
		}
	}
	if err := os.Mkdir("/run/netns", 0o755); err != nil {
		return err
	}
	raiseFileLimit()
	_, err := output(context.Background(), "ip", "link", "set", "lo", "up")
	return err
}

// raiseFileLimit raises the limit of open files: experiments 4 and 6 need many.
func raiseFileLimit() {
	var limit unix.Rlimit
	if unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: 1 << 20, Max: 1 << 20}) == nil || unix.Getrlimit(unix.RLIMIT_NOFILE, &limit) != nil {
		return
	}
	limit.Cur = limit.Max
	unix.Setrlimit(unix.RLIMIT_NOFILE, &limit)
}

// outputDir makes a new folder for fetched files.
func (t *tool) outputDir() (string, error) {
	if t.disk {
		return os.MkdirTemp(t.dir, "fetched-")
	}
	return os.MkdirTemp(t.path("memory"), "fetched-")
}

// header prints the machine and the versions of the programs.
func (t *tool) header(ctx context.Context) {
	fmt.Printf("%d cores, %s, %s, loads are of 1, 5 and 15 minutes\n", runtime.NumCPU(), strings.TrimSpace(read("/proc/sys/kernel/osrelease")), runtime.Version())
	fmt.Printf("TCP %s; fetched files go to %s\n", strings.TrimSpace(read("/proc/sys/net/ipv4/tcp_congestion_control")), map[bool]string{true: "disk, with sync", false: "memory (tmpfs)"}[t.disk])
	for _, peer := range [][]string{
		{"git", "log", "-1", "--format=phaseboot %h of %cs"},
		{"nginx", "-v"},
		{"curl", "--version"},
		{"aria2c", "--version"},
		{"ip", "-V"},
	} {
		out, err := exec.CommandContext(ctx, peer[0], peer[1:]...).CombinedOutput()
		line, _, _ := strings.Cut(string(out), "\n")
		if err != nil {
			line = fmt.Sprintf("%s: not found; run: scripts/deps-check.sh --install bench-net", peer[0])
		}
		fmt.Println(line)
	}
}

// printLoad prints the load average, which shows other work on the machine.
func printLoad(when string) { fmt.Printf("  load average %s: %s", when, read("/proc/loadavg")) }

func read(path string) string {
	text, err := os.ReadFile(path)
	if err != nil {
		return "unknown\n"
	}
	return string(text)
}
