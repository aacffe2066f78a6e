package plasm

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	cgroupMount  = "/sys/fs/cgroup"
	daemonCgroup = "main"
	jobCgroup    = "job-"

	// engineCgroup is how much the control group of a job may use in addition to the job's memory limit
	// and its scratch folder, in bytes. It is the bound that Process states. RLIMIT_DATA stops a job
	// earlier, and closer to its limit. The group counts what RLIMIT_DATA does not: page tables, the
	// kernel's memory for the process, and one large growth where no filter of system calls refuses it.
	engineCgroup = 64 << 20

	engineTasks  = 64   // threads in the control group of a job; the engine has about ten
	daemonWeight = 1000 // cpu.weight of the daemon; a job has 100

	cgroupEnd = time.Second // how long a removal waits for killed processes to end
)

// Cgroups makes a control group (cgroups(7), version 2) for the process of each job. nil makes none.
type Cgroups struct {
	dir         string
	controllers []string
	last        atomic.Int64 // number of the last group
}

// OpenCgroups returns the control groups of this process, if a service manager has delegated its group to
// it (Delegate= of systemd) with the controllers memory and pids, and no other process is in it. It moves
// this process into a group below, because a group with limits for its children has no processes of its
// own, and removes the groups that a killed process has left. After an error nothing has changed.
func OpenCgroups() (*Cgroups, error) {
	own, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return nil, err
	}
	dir, err := cgroupDir(cgroupMount, string(own))
	if err != nil {
		return nil, err
	}
	var on unix.Statfs_t
	if err := unix.Statfs(dir, &on); err != nil {
		return nil, fmt.Errorf("control group %s: %w", dir, err)
	}
	if on.Type != unix.CGROUP2_SUPER_MAGIC {
		return nil, fmt.Errorf("control group %s: not of version 2", dir)
	}
	return openCgroups(dir, delegated(dir))
}

// cgroupDir returns the folder of a process's group by its /proc/PID/cgroup.
func cgroupDir(mount, text string) (string, error) {
	for line := range strings.Lines(text) {
		if path, ok := strings.CutPrefix(strings.TrimSuffix(line, "\n"), "0::/"); ok {
			if path == "" || !filepath.IsLocal(path) {
				return "", fmt.Errorf("control group %q: no service manager has made it for this process", "/"+path)
			}
			return filepath.Join(mount, path), nil
		}
	}
	return "", errors.New("control group: the kernel has none of version 2")
}

// openCgroups takes over the group at dir, if it is delegated to this process.
func openCgroups(dir string, delegated bool) (*Cgroups, error) {
	if !delegated {
		return nil, fmt.Errorf("control group %s: not delegated; set Delegate=memory cpu pids in the unit", dir)
	}
	g := &Cgroups{dir: dir}
	offered, err := os.ReadFile(filepath.Join(dir, "cgroup.controllers"))
	if err != nil {
		return nil, fmt.Errorf("control group: %w", err)
	}
	for _, name := range []string{"memory", "pids", "cpu"} {
		if slices.Contains(strings.Fields(string(offered)), name) {
			g.controllers = append(g.controllers, name)
		} else if name != "cpu" {
			return nil, fmt.Errorf("control group %s: no controller %s; set Delegate=memory cpu pids in the unit", dir, name)
		}
	}
	procs, err := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
	if err != nil {
		return nil, fmt.Errorf("control group: %w", err)
	}
	if !slices.Equal(strings.Fields(string(procs)), []string{strconv.Itoa(os.Getpid())}) {
		return nil, fmt.Errorf("control group %s: other processes are in it", dir)
	}
	g.removeLeft()
	if err := g.enter(); err != nil {
		return nil, fmt.Errorf("control group: %w", err)
	}
	return g, nil
}

// delegated reports whether systemd has marked a group as delegated.
func delegated(dir string) bool {
	value := make([]byte, 8)
	return slices.ContainsFunc([]string{"user.delegate", "trusted.delegate"}, func(name string) bool {
		n, err := unix.Getxattr(dir, name, value)
		return err == nil && string(value[:n]) == "1"
	})
}

// removeLeft removes the groups of jobs that a killed process has left.
func (g *Cgroups) removeLeft() {
	left, _ := filepath.Glob(filepath.Join(g.dir, jobCgroup+"*")) // the pattern is valid
	for _, path := range left {
		(&cgroup{path: path}).remove()
	}
}

// enter moves this process one group down and turns the controllers on for the groups there.
func (g *Cgroups) enter() error {
	daemon := &cgroup{path: filepath.Join(g.dir, daemonCgroup)}
	if err := os.Mkdir(daemon.path, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	const self = "0"
	err := daemon.set("cgroup.procs", self)
	if err == nil {
		whole := &cgroup{path: g.dir}
		if err = whole.set("cgroup.subtree_control", "+"+strings.Join(g.controllers, " +")); err != nil {
			_ = whole.set("cgroup.procs", self)
		}
	}
	if err != nil {
		_ = os.Remove(daemon.path)
		return err
	}
	if slices.Contains(g.controllers, "cpu") {
		_ = daemon.set("cpu.weight", strconv.Itoa(daemonWeight)) // without it, the daemon counts as one job
	}
	return nil
}

// job makes the group of a job. It returns nil if it cannot be made with all its limits.
func (g *Cgroups) job(spec Spec) *cgroup {
	if g == nil {
		return nil
	}
	c := &cgroup{}
	for made := false; !made; {
		c.path = filepath.Join(g.dir, jobCgroup+strconv.FormatInt(g.last.Add(1), 10))
		err := os.Mkdir(c.path, 0o755)
		if err != nil && !errors.Is(err, fs.ErrExist) {
			return nil
		}
		made = err == nil
	}
	dir, err := os.Open(c.path)
	if err == nil {
		c.dir, err = dir, c.limit(spec, g.controllers)
	}
	if err != nil {
		c.remove()
		return nil
	}
	return c
}

// A cgroup is the control group of one job. A nil one does nothing.
type cgroup struct {
	path string
	dir  *os.File
}

// limit sets the limits of a job.
func (c *cgroup) limit(spec Spec, controllers []string) error {
	memory := (spec.Limits.Memory + scratchCost(spec.Grants.Scratch) + engineCgroup) * raceFactor
	for _, row := range []struct {
		controller, file, value string
	}{
		{"memory", "memory.max", strconv.FormatInt(memory, 10)},
		{"memory", "memory.oom.group", "1"},
		{"memory", "memory.swap.max", "0"},
		{"pids", "pids.max", strconv.Itoa(engineTasks)},
	} {
		if !slices.Contains(controllers, row.controller) {
			continue
		}
		err := c.set(row.file, row.value)
		if err != nil && !(row.file == "memory.swap.max" && errors.Is(err, fs.ErrNotExist)) { // a kernel without swap
			return err
		}
	}
	return nil
}

// set writes a value into a file of the group.
func (c *cgroup) set(file, value string) error {
	f, err := os.OpenFile(filepath.Join(c.path, file), os.O_WRONLY, 0) // it exists, or the kernel does not have it
	if err != nil {
		return err
	}
	_, err = f.WriteString(value)
	return errors.Join(err, f.Close())
}

// attrs returns the attributes with which a process is started, the best ones first: in the group
// from its first instruction, with namespaces of its own.
func (c *cgroup) attrs() (attrs []syscall.SysProcAttr) {
	if c != nil {
		attr := ownNamespaces()
		attr.UseCgroupFD, attr.CgroupFD = true, int(c.dir.Fd())
		attrs = append(attrs, attr)
	}
	return append(attrs, ownNamespaces(), syscall.SysProcAttr{})
}

// add moves a process into the group.
func (c *cgroup) add(pid int) error { return c.set("cgroup.procs", strconv.Itoa(pid)) }

// kill kills all processes of the group.
func (c *cgroup) kill() {
	if c == nil || c.set("cgroup.kill", "1") == nil {
		return
	}
	procs, _ := os.ReadFile(filepath.Join(c.path, "cgroup.procs")) // before Linux 5.14
	for _, text := range strings.Fields(string(procs)) {
		if pid, err := strconv.Atoi(text); err == nil && pid > 0 {
			_ = unix.Kill(pid, unix.SIGKILL)
		}
	}
}

// outOfMemory reports whether the kernel killed the group because it had reached its limit.
func (c *cgroup) outOfMemory() bool {
	if c == nil {
		return false
	}
	events, _ := os.ReadFile(filepath.Join(c.path, "memory.events"))
	count := map[string]bool{}
	for line := range bytes.Lines(events) {
		name, n, _ := strings.Cut(strings.TrimSpace(string(line)), " ")
		count[name] = n != "0"
	}
	// oom is the limit of this group. Without it, the whole machine was out of memory.
	return count["oom"] && count["oom_kill"]
}

// remove kills the processes of the group and removes it. What does not end in time is left to the next
// OpenCgroups.
func (c *cgroup) remove() {
	if c == nil {
		return
	}
	c.dir.Close() // harmless for nil
	for end := time.Now().Add(cgroupEnd); os.Remove(c.path) != nil && time.Now().Before(end); time.Sleep(time.Millisecond) {
		if _, err := os.Lstat(c.path); err != nil {
			return
		}
		c.kill()
	}
}
