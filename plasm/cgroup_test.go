package plasm

import (
	"bufio"
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

func TestTheGroupOfAProcessIsFound(t *testing.T) {
	for _, row := range []struct{ name, text, want string }{
		{"version 2", "0::/system.slice/plasmd.service\n", "/cg/system.slice/plasmd.service"},
		{"both versions", "4:memory:/user\n1:name=systemd:/x\n0::/a.slice/b:c\n", "/cg/a.slice/b:c"},
		{"version 1", "4:memory:/user\n", ""},
		{"the first group", "0::/\n", ""},
		{"outside of the namespace", "0::/../../other\n", ""},
		{"nothing", "", ""},
	} {
		got, err := cgroupDir("/cg", row.text)
		if got != row.want || (err == nil) != (row.want != "") {
			t.Errorf("%s: %q, %v; want %q", row.name, got, err, row.want)
		}
	}
}

// group makes a folder with the files of a group. The kernel has more of them, and acts on what is written.
func group(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// A group that is not delegated, or that has not what jobs need, stays as it is.
func TestAGroupThatIsNotDelegatedStaysAsItIs(t *testing.T) {
	self := strconv.Itoa(os.Getpid())
	for _, row := range []struct {
		name                              string
		delegated                         bool
		controllers, procs, subtree, want string
	}{
		{"not delegated", false, "cpu memory pids", self, "", "not delegated"},
		{"no controllers", true, "", self, "", "no controller memory"},
		{"no limit of processes", true, "cpu memory", self, "", "no controller pids"},
		{"the group of a shell", true, "cpu memory pids", "1\n" + self, "", "other processes"},
		{"no controls below", true, "cpu memory pids", self, "absent", "no such file"},
	} {
		files := map[string]string{"cgroup.controllers": row.controllers + "\n", "cgroup.procs": row.procs + "\n"}
		if row.subtree != "absent" {
			files["cgroup.subtree_control"] = ""
		}
		dir := group(t, files)
		_, err := openCgroups(dir, row.delegated)
		if err == nil || !strings.Contains(err.Error(), row.want) {
			t.Errorf("%s: %v, want %q", row.name, err, row.want)
		}
		entries, err := os.ReadDir(dir)
		if err != nil || len(entries) != len(files) {
			t.Errorf("%s: %v, %v are left of %d files", row.name, entries, err, len(files))
		}
		for name, want := range files {
			if got, err := os.ReadFile(filepath.Join(dir, name)); err != nil || string(got) != want {
				t.Errorf("%s: %s is %q, %v; want %q", row.name, name, got, err, want)
			}
		}
	}
}

// What is written into a delegated group is what cgroups(7) asks for: this process leaves it, then the
// controllers are turned on.
func TestADelegatedGroupIsTakenOver(t *testing.T) {
	dir := group(t, map[string]string{
		"cgroup.controllers": "cpuset cpu io memory pids\n", "cgroup.procs": strconv.Itoa(os.Getpid()) + "\n", "cgroup.subtree_control": "",
		"main/cgroup.procs": "", "main/cpu.weight": "100",
	})
	if err := os.Mkdir(filepath.Join(dir, "job-7"), 0o755); err != nil { // a killed process has left it
		t.Fatal(err)
	}
	g, err := openCgroups(dir, true)
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{"cgroup.subtree_control": "+memory +pids +cpu", "main/cgroup.procs": "0", "main/cpu.weight": "1000"} {
		if got, err := os.ReadFile(filepath.Join(dir, name)); err != nil || string(got) != want {
			t.Errorf("%s is %q, %v; want %q", name, got, err, want)
		}
	}
	if _, err := os.Stat(filepath.Join(dir, "job-7")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the group of an earlier job: %v", err)
	}
	// The kernel does not take the limits of a job here: it gets no group, and no folder stays.
	if c := g.job(Spec{Limits: tight}); c != nil {
		t.Errorf("a group without limits: %+v", c)
	}
	if left, _ := filepath.Glob(filepath.Join(dir, "job-*")); len(left) > 0 {
		t.Errorf("left: %q", left)
	}
}

func TestTheLimitsOfAGroup(t *testing.T) {
	files := map[string]string{"memory.max": "", "memory.oom.group": "", "pids.max": ""} // of a kernel without swap
	c := &cgroup{path: group(t, files)}
	spec := Spec{Limits: tight, Grants: Grants{Scratch: 64 << 20}}
	if err := c.limit(spec, []string{"memory", "pids"}); err != nil {
		t.Fatal(err)
	}
	memory := strconv.FormatInt((tight.Memory+scratchCost(64<<20)+64<<20)*raceFactor, 10)
	for name, want := range map[string]string{"memory.max": memory, "memory.oom.group": "1", "pids.max": "64"} {
		if got, err := os.ReadFile(filepath.Join(c.path, name)); err != nil || string(got) != want {
			t.Errorf("%s is %q, %v; want %q", name, got, err, want)
		}
	}
}

// A process that the kernel killed at the limit of its group ended by memory. One that it killed because the
// machine had no memory was killed.
func TestAProcessThatItsGroupKilledEndsByMemory(t *testing.T) {
	for _, row := range []struct {
		events string
		want   bool
	}{
		{"low 0\nhigh 0\nmax 12\noom 1\noom_kill 2\noom_group_kill 1\n", true},
		{"low 0\nhigh 0\nmax 12\noom 0\noom_kill 0\n", false},
		{"low 0\nhigh 0\nmax 0\noom 0\noom_kill 1\n", false},
		{"", false},
	} {
		c := &cgroup{path: group(t, map[string]string{"memory.events": row.events})}
		if got := c.outOfMemory(); got != row.want {
			t.Errorf("%q: %t", row.events, got)
		}
	}
	a := &answer{out: newOutput(1, IO{}, func(error) {})}
	if o := a.outcome(processExit{outOfMemory: true, killed: errTimeout}, tight); o.Reason != ReasonMemory || !strings.Contains(o.Detail, "control group") {
		t.Errorf("%s: %s", o.Reason, o.Detail)
	}
}

// kernelGroup returns a new group of the kernel below that of this process, without controllers. ok is false for
// who may make none, such as a user without a delegation; internal/e2e has these tests in a machine.
func kernelGroup(t *testing.T) (dir string, ok bool) {
	t.Helper()
	own, _ := os.ReadFile("/proc/self/cgroup")
	mounts, err := os.Open("/proc/self/mounts")
	if err != nil {
		t.Fatal(err)
	}
	defer mounts.Close()
	path := ""
	for line := range strings.Lines(string(own)) {
		if rest, ok := strings.CutPrefix(line, "0::"); ok {
			path = strings.TrimSpace(rest)
		}
	}
	for lines := bufio.NewScanner(mounts); lines.Scan(); {
		f := strings.Fields(lines.Text())
		if len(f) < 3 || f[2] != "cgroup2" {
			continue
		}
		if dir, err := os.MkdirTemp(filepath.Join(f[1], path), "plasm-test-"); err == nil {
			t.Cleanup(func() {
				if err := os.Remove(dir); err != nil {
					t.Errorf("the group is not empty: %v", err)
				}
			})
			return dir, true
		}
	}
	t.Log("this process may not make control groups of version 2")
	return "", false
}

func init() {
	roles["names its group"] = func() {
		// The request comes after the process is in its group.
		_, _, _, _ = receive(os.NewFile(fdRequest, "request"))
		own, _ := os.ReadFile("/proc/self/cgroup")
		_, _ = reply().stdout().Write(own)
		sendResult(result{Reason: ReasonExit})
	}
}

// A job runs in a group of its own, which is gone when it has ended, also if it was killed.
func TestAJobHasAGroupOfItsOwn(t *testing.T) {
	dir, ok := kernelGroup(t)
	if !ok {
		return
	}
	groups := &Cgroups{dir: dir}
	var text strings.Builder
	p := Process{Args: []string{"names its group"}, Cgroups: groups}
	o, err := p.Run(t.Context(), Job{Module: hand{}.bytes()}, Spec{Limits: longLimits()}, IO{Stdout: &text})
	if err != nil || !o.OK() || !slices.Contains(o.Isolation, IsolationCgroup) {
		t.Fatalf("%+v, %v", o, err)
	}
	if !strings.Contains(text.String(), "/job-1\n") {
		t.Errorf("the process is in\n%s", &text)
	}
	p.Args = engine.Args
	lim := tight
	lim.Timeout = 200 * time.Millisecond
	loop := hand{body: []byte{opLoop, typeVoid, opBr, 0, opEnd}}.bytes()
	o, err = p.Run(t.Context(), Job{Name: "loop", Module: loop}, Spec{Limits: lim}, IO{})
	if err != nil || o.Reason != ReasonTimeout {
		t.Errorf("%+v, %v", o, err)
	}
	if left, _ := filepath.Glob(filepath.Join(groups.dir, "job-*")); len(left) > 0 {
		t.Errorf("left: %q", left)
	}
}

// The kernel may refuse to start a process in a group, as under a filter of a supervisor. Then it is moved. The
// kill of the group reaches it outside of the process group too.
func TestAProcessIsMovedIntoItsGroup(t *testing.T) {
	dir, ok := kernelGroup(t)
	if !ok {
		return
	}
	groups := &Cgroups{dir: dir}
	c := &child{group: groups.job(Spec{Limits: tight})}
	defer c.group.remove()
	sleeper, err := os.StartProcess("/bin/sleep", []string{"sleep", "3600"}, &os.ProcAttr{})
	if err != nil {
		t.Fatal(err)
	}
	c.pid = sleeper.Pid
	c.join(false)
	if !slices.Equal(c.isolation, []string{IsolationCgroup}) {
		t.Errorf("reached %q", c.isolation)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	defer context.AfterFunc(ctx, func() { _ = sleeper.Kill() })()
	c.group.kill()
	state, err := sleeper.Wait()
	if err != nil || state.String() != "signal: killed" || ctx.Err() != nil {
		t.Errorf("the group's kill ended it with %v, %v", state, err)
	}
}

// A process of another program that a job left behind ends with its group at the next start.
func TestTheGroupOfAnEarlierJobIsKilledAndRemoved(t *testing.T) {
	dir, ok := kernelGroup(t)
	if !ok {
		return
	}
	groups := &Cgroups{dir: dir}
	left := groups.job(Spec{Limits: tight})
	sleeper, err := os.StartProcess("/bin/sleep", []string{"sleep", "3600"}, &os.ProcAttr{})
	if err != nil {
		t.Fatal(err)
	}
	if err := left.add(sleeper.Pid); err != nil {
		t.Fatal(err)
	}
	left.dir.Close()
	ended := make(chan error, 1)
	go func() { _, err := sleeper.Wait(); ended <- err }()
	(&Cgroups{dir: groups.dir}).removeLeft()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(left.path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the group: %v", err)
	}
}
