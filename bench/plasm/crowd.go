package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/imports/wasi_snapshot_preview1"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/phaseboot/phaseboot/plasm"
)

// crowd measures the process of a job beside wazero in this process, and jobs a second with two workers.
func (b *bench) crowd(ctx context.Context) error {
	job, err := readJob(ctx, b.job("hello"))
	if err != nil {
		return err
	}
	const text = "hello from a signed WASM job"
	spec := plasm.DefaultSpec()
	spec.Engine, spec.Limits.Timeout = plasm.EngineInterpreter, 10*time.Minute
	all := []*contestant{
		{name: "wazero's interpreter in this process, without limits (memory not measured)", run: func(ctx context.Context) (cost, error) { return inProcess(ctx, job, text) }},
		{name: "plasm: a process for the job, its limits and checks (memory: linear memory only)", run: func(ctx context.Context) (cost, error) { return runJob(ctx, engine, job, spec, text) }},
	}
	if err := race(ctx, b.starts, all); err != nil {
		return err
	}
	if err := table(fmt.Sprintf("The process of a job: hello, %d runs each", b.starts), all); err != nil {
		return err
	}
	extra := quantile(all[1], 0.5, wall) - quantile(all[0], 0.5, wall)
	fmt.Printf("  process, limits and checks cost %.1f ms a job\n", ms(extra))

	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(2)
	started := time.Now()
	for range b.jobs {
		group.Go(func() error {
			_, err := runJob(ctx, engine, job, spec, text)
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return err
	}
	fmt.Printf("\nTwo workers: %d times hello, %.1f jobs a second\n", b.jobs, float64(b.jobs)/time.Since(started).Seconds())
	return nil
}

// inProcess runs a job in this process, without limits: what a daemon without child processes would do.
func inProcess(ctx context.Context, job plasm.Job, text string) (cost, error) {
	var out bytes.Buffer
	started, used := time.Now(), cpuTime()
	r := wazero.NewRuntimeWithConfig(ctx, wazero.NewRuntimeConfigInterpreter())
	defer r.Close(ctx)
	wasi_snapshot_preview1.MustInstantiate(ctx, r)
	_, err := r.InstantiateWithConfig(ctx, job.Module, wazero.NewModuleConfig().WithName("").WithArgs(job.Name).WithStdout(&out))
	if exit := (interface{ ExitCode() uint32 })(nil); err != nil && (!errors.As(err, &exit) || exit.ExitCode() != 0) {
		return cost{}, err
	}
	if !bytes.Contains(out.Bytes(), []byte(text)) {
		return cost{}, fmt.Errorf("wazero: output %q", &out)
	}
	return cost{Wall: time.Since(started), CPU: cpuTime() - used}, nil
}

// cpuTime is the processor time of this process so far.
func cpuTime() time.Duration {
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
