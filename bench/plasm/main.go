package main

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/phaseboot/phaseboot/plasm"
)

// engineRole is the name of the process that runs a job of this program.
const engineRole = "bench-plasm-engine"

var engine = plasm.Process{Args: []string{engineRole}}

func main() {
	if os.Args[0] == engineRole {
		exit(plasm.Serve(context.Background()))
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	b := bench{}
	flag.StringVar(&b.bin, "bin", "bin", "folder with plasmd and jobs/, as make makes them")
	flag.StringVar(&b.dir, "dir", "build", "working folder; files made in it are removed")
	flag.IntVar(&b.starts, "starts", 30, "starts of each program")
	flag.IntVar(&b.runs, "runs", 5, "runs of the job that computes; medians are printed")
	flag.StringVar(&b.n, "n", "5000000", "argument of primes")
	flag.IntVar(&b.jobs, "jobs", 60, "jobs of two workers")
	flag.Parse()
	if flag.NArg() > 0 || b.starts < 1 || b.runs < 1 || b.jobs < 1 {
		fmt.Fprintln(os.Stderr, "usage: plasm [-bin DIR] [-dir DIR] [-starts N] [-runs N] [-n N] [-jobs N]")
		os.Exit(2)
	}
	exit(b.run(ctx))
}

func exit(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench/plasm:", err)
		os.Exit(1)
	}
	os.Exit(0)
}

type bench struct {
	bin, dir           string
	starts, runs, jobs int
	n                  string
	node               []string // command that runs a WASI job with node, nil if there is none
}

func (b *bench) run(ctx context.Context) error {
	err := os.MkdirAll(b.dir, 0o755)
	if err == nil {
		b.dir, err = os.MkdirTemp(b.dir, "run-")
	}
	if err != nil {
		return err
	}
	defer os.RemoveAll(b.dir)
	for _, name := range []string{"hello", "primes"} { // for the host, to compare
		cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-o", b.dir, "./plasm/jobs/"+name)
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("%s: %w\n%s", name, err, out)
		}
	}
	if err := b.findNode(ctx); err != nil {
		return err
	}
	cache, err := filepath.Abs(filepath.Join(b.dir, "cache"))
	if err == nil {
		err = os.Setenv("XDG_CACHE_HOME", cache) // of plasmd run
	}
	if err != nil {
		return err
	}
	load("before")
	for _, part := range []func(context.Context) error{b.start, b.compute, b.crowd, b.idle} {
		if err := part(ctx); err != nil {
			return err
		}
	}
	load("after")
	return nil
}

// nodeScript runs the WASI job in its first argument.
const nodeScript = `const { WASI } = require('wasi');
const [file, ...args] = process.argv.slice(2);
const wasi = new WASI({ version: 'preview1', args: [file, ...args] });
WebAssembly.compile(require('fs').readFileSync(file))
  .then((m) => WebAssembly.instantiate(m, wasi.getImportObject()))
  .then((i) => wasi.start(i));
`

// findNode writes the script for node and tries it. Without a node that has WASI, it says so.
func (b *bench) findNode(ctx context.Context) error {
	script := filepath.Join(b.dir, "wasi.js")
	if err := os.WriteFile(script, []byte(nodeScript), 0o644); err != nil {
		return err
	}
	command := []string{"node", "--no-warnings", script}
	if _, err := b.command(ctx, append(command, b.job("hello"))); err != nil {
		fmt.Printf("node's WASI is not measured (%v); install it with: apt-get install nodejs\n", err)
		return nil
	}
	b.node = command
	return nil
}

func (b *bench) job(name string) string { return filepath.Join(b.bin, "jobs", name+".wasm") }

// A cost is that of one run.
type cost struct {
	Wall, CPU time.Duration
	Memory    int64 // peak of the largest process, bytes
}

// command runs a command to its end. Its output is shown if it fails.
func (b *bench) command(ctx context.Context, argv []string) (cost, error) {
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	started := time.Now()
	if err := cmd.Run(); err != nil {
		return cost{}, fmt.Errorf("%s: %w %s", argv[0], err, bytes.TrimSpace(out.Bytes()))
	}
	c := cost{Wall: time.Since(started), CPU: cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()}
	if usage, ok := cmd.ProcessState.SysUsage().(*syscall.Rusage); ok {
		c.Memory = usage.Maxrss << 10
	}
	return c, nil
}

// A contestant is a row of a table: one way to do the table's work.
type contestant struct {
	name string
	run  func(context.Context) (cost, error)
	took []cost
}

// race runs every contestant in turn, n times.
func race(ctx context.Context, n int, all []*contestant) error {
	for range n {
		for _, c := range all {
			took, err := c.run(ctx)
			if err != nil {
				return fmt.Errorf("%s: %w", c.name, err)
			}
			c.took = append(c.took, took)
		}
	}
	return nil
}

// quantile returns the figure of a contestant that the share q of its runs did not exceed.
func quantile[T int64 | time.Duration](c *contestant, q float64, figure func(cost) T) T {
	list := make([]T, 0, len(c.took))
	for _, took := range c.took {
		list = append(list, figure(took))
	}
	slices.Sort(list)
	return list[int(q*float64(len(list)-1)+0.5)]
}

func wall(c cost) time.Duration { return c.Wall }
func cpu(c cost) time.Duration  { return c.CPU }
func memory(c cost) int64       { return c.Memory }

func ms(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
func mib(n int64) float64        { return float64(n) / (1 << 20) }

// table prints the contestants: the times in ms, the ratio to the median of the first, and the memory.
func table(title string, all []*contestant) error {
	fmt.Printf("\n%s\n", title)
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(w, "p50, ms\tp99, ms\tratio\tCPU, ms\tmemory, MiB\t")
	for _, c := range all {
		p50 := quantile(c, 0.5, wall)
		fmt.Fprintf(w, "%.1f\t%.1f\t%.2f\t%.1f\t%.1f\t  %s\n", ms(p50), ms(quantile(c, 0.99, wall)),
			float64(p50)/float64(quantile(all[0], 0.5, wall)), ms(quantile(c, 0.5, cpu)), mib(quantile(c, 0.5, memory)), c.name)
	}
	return w.Flush()
}

// load prints the load average, which shows other work on the machine.
func load(when string) {
	text, err := os.ReadFile("/proc/loadavg")
	if err == nil {
		fmt.Printf("load average %s: %s", when, text)
	}
}
