package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/phaseboot/phaseboot/plasm"
)

// compute measures primes in both engines and with stored code, beside the same program built for the host,
// and node's WASI.
func (b *bench) compute(ctx context.Context) error {
	stored := engine
	stored.Code = plasm.NewCodeCache(filepath.Join(b.dir, "code"), nil)
	if _, err := b.primes(ctx, stored, plasm.EngineCompiler); err != nil {
		return err
	}
	all := []*contestant{
		b.starter("built for the host", []string{filepath.Join(b.dir, "primes"), b.n}),
		{name: "plasm, compiler", run: func(ctx context.Context) (cost, error) { return b.primes(ctx, engine, plasm.EngineCompiler) }},
		{name: "plasm, stored code of the compiler", run: func(ctx context.Context) (cost, error) { return b.primes(ctx, stored, plasm.EngineCompiler) }},
		{name: "plasm, interpreter", run: func(ctx context.Context) (cost, error) { return b.primes(ctx, engine, plasm.EngineInterpreter) }},
	}
	if b.node != nil {
		all = append(all, b.starter("node's WASI", append(b.node[:len(b.node):len(b.node)], b.job("primes"), b.n)))
	}
	if err := race(ctx, b.runs, all); err != nil {
		return err
	}
	return table(fmt.Sprintf("Computing: primes below %s, with the start, %d runs each (memory of plasm: linear memory only)", b.n, b.runs), all)
}

// primes runs the job in a process of its own.
func (b *bench) primes(ctx context.Context, process plasm.Process, name string) (cost, error) {
	job, err := readJob(ctx, b.job("primes"))
	if err != nil {
		return cost{}, err
	}
	spec := plasm.DefaultSpec()
	spec.Args, spec.Engine, spec.Limits.Timeout = []string{b.n}, name, 10*time.Minute
	return runJob(ctx, process, job, spec, "primes below "+b.n)
}

func readJob(ctx context.Context, path string) (plasm.Job, error) {
	module, err := os.ReadFile(path)
	if err != nil {
		return plasm.Job{}, err
	}
	return plasm.NewJob(ctx, filepath.Base(path), module)
}

// runJob runs a job that must print a text.
func runJob(ctx context.Context, process plasm.Process, job plasm.Job, spec plasm.Spec, text string) (cost, error) {
	var out bytes.Buffer
	started := time.Now()
	o, err := process.Run(ctx, job, spec, plasm.IO{Stdout: &out})
	if err != nil {
		return cost{}, err
	}
	if !o.OK() || !strings.Contains(out.String(), text) {
		return cost{}, fmt.Errorf("job %s: %s (%s), output %q", job.Name, o.Reason, o.Detail, &out)
	}
	return cost{Wall: time.Since(started), CPU: o.CPU, Memory: o.MemoryPeak}, nil
}
