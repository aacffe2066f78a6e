package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// insideKey names the environment variable that marks the process in the new namespaces. It has the
// folder of the fixtures.
const insideKey = "PHASE_BENCH_BOOT_DIR"

func main() {
	if os.Getpid() == 1 && os.Getenv(insideKey) == "" {
		firstLine() // the release without a root filesystem: this program is its /init
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	t, err := parse(os.Args[1:])
	switch {
	case errors.Is(err, flag.ErrHelp):
		return
	case err != nil:
		fmt.Fprintln(os.Stderr, "bench/boot:", err)
		os.Exit(2)
	}
	if dir := os.Getenv(insideKey); dir != "" {
		t.dir = dir
		err = t.measure(ctx)
	} else {
		err = t.outer(ctx)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench/boot:", err)
		os.Exit(1)
	}
}

// A tool is the configuration of one run.
type tool struct {
	bin, dir string
	keep     string // folder with the fixtures of an earlier run
	releases []string
	clients  []string // phase-boot programs
	runs     int
	cpus     int
	memory   int // MiB
	smallest bool
}

func parse(args []string) (*tool, error) {
	t := tool{}
	var releases, clients string
	set := flag.NewFlagSet("boot", flag.ContinueOnError)
	set.StringVar(&t.bin, "bin", "bin", "folder with the commands")
	set.StringVar(&t.dir, "dir", "build", "working folder; files made in it are removed")
	set.StringVar(&t.keep, "keep", "", "`folder` for the releases and images, which are made if it does not exist and are kept")
	set.StringVar(&releases, "releases", "small,demo", "small (a kernel and an init), demo (with the demo's root filesystem) and large (with 285 MiB that cannot be compressed)")
	set.StringVar(&clients, "phase-boot", "", "phase-boot programs to compare, separated by commas (default: the one in -bin)")
	set.IntVar(&t.runs, "runs", 3, "boots of each row; medians are printed")
	set.IntVar(&t.cpus, "cpus", 1, "processors of the machine")
	set.IntVar(&t.memory, "memory", 1536, "memory of the machine in MiB")
	set.BoolVar(&t.smallest, "smallest", false, "print the smallest memory that boots each release, in place of times")
	if err := set.Parse(args); err != nil {
		return nil, err
	}
	if set.NArg() > 0 || t.runs < 1 || t.cpus < 1 || t.memory < 64 {
		return nil, fmt.Errorf("arguments: -runs, -cpus and -memory must be positive, and nothing may follow them")
	}
	t.releases = strings.Split(releases, ",")
	for _, r := range t.releases {
		if !slices.Contains([]string{"small", "demo", "large"}, r) {
			return nil, fmt.Errorf("-releases %q: unknown; use small, demo, large", r)
		}
	}
	for _, path := range []*string{&t.bin, &t.dir, &t.keep} {
		var err error
		if *path == "" {
			continue
		}
		if *path, err = filepath.Abs(*path); err != nil {
			return nil, err
		}
	}
	t.clients = []string{filepath.Join(t.bin, "phase-boot")}
	if clients != "" {
		t.clients = strings.Split(clients, ",")
	}
	return &t, nil
}

// outer makes the fixtures, which needs the outside network, and then runs this program again in
// new namespaces, which end with it.
func (t *tool) outer(ctx context.Context) error {
	remove, err := t.fixtures(ctx)
	if err != nil {
		return err
	}
	defer remove()
	self, err := os.Executable()
	if err != nil {
		return err
	}
	args := []string{"--mount", "--net", "--pid", "--fork", "--kill-child", "--mount-proc"}
	if os.Geteuid() != 0 {
		args = append(args, "--user", "--map-root-user", "--map-auto")
	}
	cmd := exec.CommandContext(ctx, "unshare", append(append(args, self), os.Args[1:]...)...)
	cmd.Env = append(os.Environ(), insideKey+"="+t.dir)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	return cmd.Run()
}

// fixtures makes the releases and images, or finds those of an earlier run. t.dir is their folder then.
func (t *tool) fixtures(ctx context.Context) (remove func(), err error) {
	remove = func() {}
	if t.keep != "" {
		t.dir = t.keep
		if _, err := os.Stat(t.path("complete")); err == nil {
			return remove, nil
		}
	} else {
		if err := os.MkdirAll(t.dir, 0o755); err != nil {
			return nil, err
		}
		if t.dir, err = os.MkdirTemp(t.dir, "boot-"); err != nil {
			return nil, err
		}
		remove = func() { os.RemoveAll(t.dir) }
	}
	if err := t.prepare(ctx); err != nil {
		remove()
		return nil, err
	}
	return remove, os.WriteFile(t.path("complete"), nil, 0o644)
}

func (t *tool) path(elem ...string) string { return filepath.Join(append([]string{t.dir}, elem...)...) }

// measure makes the LAN and boots machines on it.
func (t *tool) measure(ctx context.Context) error {
	if err := t.makeLAN(ctx); err != nil {
		return err
	}
	load, _ := os.ReadFile("/proc/loadavg")
	fmt.Printf("machine: %s, %d processors, %d MiB; load average of the host before: %s", accelerator(), t.cpus, t.memory, load)
	for _, name := range t.releases {
		stop, err := t.serve(ctx, name)
		if err != nil {
			return err
		}
		if t.smallest {
			err = t.smallestMemory(ctx, name)
		} else {
			err = t.times(ctx, name)
		}
		stop()
		if err != nil {
			return fmt.Errorf("release %s: %w", name, err)
		}
	}
	return nil
}

// firstMark is the first line of the release without a root filesystem.
const firstMark = "bench/boot: the release is up"

// firstLine is the /init of that release.
func firstLine() {
	fmt.Println(firstMark)
	for {
		unix.Pause()
	}
}
