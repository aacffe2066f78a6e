package main

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

const (
	address = "10.55.0.1"
	port    = "tap0"
)

// makeLAN makes the bridge, the port of the machine and the DHCP server.
func (t *tool) makeLAN(ctx context.Context) error {
	for _, line := range []string{
		"link set lo up", "link add br0 type bridge mcast_snooping 0", "addr add " + address + "/24 dev br0", "link set br0 up",
		"tuntap add " + port + " mode tap", "link set " + port + " master br0", "link set " + port + " up",
	} {
		if err := run(ctx, "ip", strings.Fields(line)...); err != nil {
			return err
		}
	}
	dhcp := exec.CommandContext(ctx, "dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--port=0", "--interface=br0", "--bind-interfaces", "--user=root",
		"--pid-file=", "--dhcp-leasefile="+t.path("leases"), "--no-ping", "--dhcp-range=10.55.0.100,10.55.0.200,1h")
	if err := dhcp.Start(); err != nil {
		return fmt.Errorf("%w; run: make deps", err)
	}
	return nil
}

// serve starts the publisher of a release and waits until it serves.
func (t *tool) serve(ctx context.Context, name string) (stop func(), err error) {
	cmd := exec.CommandContext(ctx, filepath.Join(t.bin, "phase-publish"), "serve", "--store", t.path(name, "store"), "--repo", t.path(name, "repo"), "--online-key", t.path("keys/online"),
		"--ipns-key", t.path("keys/ipns"), "--http", address+":8080", "--listen", "/ip4/"+address+"/tcp/4001", "--dht", "off")
	var log bytes.Buffer
	cmd.Stderr = &log
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		return nil, err
	}
	if _, err := bufio.NewReader(out).ReadString('\n'); err != nil {
		_ = cmd.Wait()
		return nil, fmt.Errorf("phase-publish serve: not ready: %w: %s", err, log.String())
	}
	return func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		_ = cmd.Wait()
	}, nil
}

// A line is a line of the serial console, the time since the start of QEMU, and the CPU time that QEMU
// has used.
type line struct {
	text string
	at   time.Duration
	cpu  time.Duration
}

// bootLimit bounds one boot without KVM on a busy machine.
const bootLimit = 5 * time.Minute

// boot starts a machine from a disk, or with more arguments of QEMU and without a disk. It returns
// the lines of its console until one contains a text of ends, and stops the machine.
func (t *tool) boot(ctx context.Context, disk string, memory int, ends []string, more ...string) ([]line, error) {
	ctx, cancel := context.WithTimeout(ctx, bootLimit)
	defer cancel()
	cmd := exec.CommandContext(ctx, "scripts/test-qemu-x86.sh", append([]string{disk}, more...)...)
	cmd.Env = append(os.Environ(), "NET=tap:"+port, "MEM="+strconv.Itoa(memory), "CPUS="+strconv.Itoa(t.cpus), "ACCEL="+accelerator())
	if len(more) > 0 {
		cmd.Env = append(cmd.Env, "DISK=none")
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	stdin, err := cmd.StdinPipe() // the serial line reads it
	if err != nil {
		return nil, err
	}
	defer stdin.Close()
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	cmd.Stderr = cmd.Stdout
	begun := time.Now()
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	defer func() {
		cancel()
		_ = cmd.Wait()
	}()
	var lines []line
	in := bufio.NewReader(out)
	for {
		text, err := in.ReadString('\n')
		lines = append(lines, line{strings.TrimSpace(text), time.Since(begun), cpuTime(cmd.Process.Pid)})
		for _, end := range ends {
			if strings.Contains(text, end) {
				return lines, nil
			}
		}
		if err != nil {
			return lines, fmt.Errorf("the machine ended, or took %v, before %q: %w; its last lines:\n%s", bootLimit, ends, err, tail(lines, 15))
		}
	}
}

func tail(lines []line, n int) string {
	var b strings.Builder
	for _, l := range lines[max(0, len(lines)-n):] {
		fmt.Fprintf(&b, "  %.160q\n", l.text)
	}
	return b.String()
}

// cpuTime returns the CPU time of a process.
func cpuTime(pid int) time.Duration {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0
	}
	fields := bytes.Fields(stat[bytes.LastIndexByte(stat, ')')+1:])
	if len(fields) < 13 {
		return 0
	}
	user, _ := strconv.Atoi(string(fields[11]))
	system, _ := strconv.Atoi(string(fields[12]))
	return time.Duration(user+system) * 10 * time.Millisecond
}

// accelerator returns kvm or tcg.
func accelerator() string {
	if a := os.Getenv("ACCEL"); a != "" {
		return a
	}
	out, err := exec.Command("scripts/test-qemu-x86.sh", "--accel").Output()
	if err != nil {
		return "tcg"
	}
	a := strings.TrimSpace(string(out))
	os.Setenv("ACCEL", a) // the probe takes 5 s if KVM hangs
	return a
}
