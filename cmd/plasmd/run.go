package main

import (
	"bytes"
	"cmp"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"fmt"
	"io"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/internal/atomicfile"
	"github.com/phaseboot/phaseboot/internal/bootfile"
	"github.com/phaseboot/phaseboot/internal/cli"
	"github.com/phaseboot/phaseboot/manifest"
	"github.com/phaseboot/phaseboot/plasm"
)

// Maximum sizes of input files, in bytes.
const (
	maxKey     = 64 << 10
	maxRelease = 1 << 20
	maxModule  = 32 << 20
)

type runFlags struct {
	release, jobDir, key, receipt string
	limits                        plasm.Limits
}

func runCommand() *cobra.Command {
	f := runFlags{limits: plasm.DefaultLimits()}
	cmd := &cobra.Command{
		Use:   "run [JOB.wasm]",
		Short: "Run a job under limits and print its signed receipt",
		Long: `Run runs one WASI preview1 command: the job of a release, which must match its signed
entry, or a file. The job gets its name as its only argument, and no files, network or
environment. Its output is printed while it runs, each line after "job: "; then the
receipt is printed as one line.

The job runs in a process of its own, which is killed at the time limit. plasmd uses at
most 64M in addition to --memory. The code of the job counts against --memory: about 25
bytes for each byte of the module.

Exit code 0: the job exited with 0, or the release has no job. 1: the job failed or was
stopped at a limit; its receipt says which.`,
		Example: `  plasmd run --release /run/phase/release.json --key /run/phase/machine.key
  plasmd run --memory 48M --timeout 5s bin/hello.wasm`,
		Args: cli.Args(cobra.MaximumNArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error { return f.run(cmd, args) },
	}
	flags := cmd.Flags()
	flags.StringVar(&f.release, "release", "", "verified release as JSON; its job is in the same folder")
	flags.StringVar(&f.jobDir, "job-dir", "", "folder with the job, named by its role (default: the folder of --release)")
	flags.StringVar(&f.key, "key", "", "key of the machine that signs the receipt, Ed25519 in PKCS #8 PEM (default: a new key for this run)")
	flags.StringVar(&f.receipt, "receipt", "", "also write the receipt to this file")
	flags.Var((*cli.Size)(&f.limits.Memory), "memory", "memory limit of the job, its code included")
	flags.DurationVar(&f.limits.Timeout, "timeout", f.limits.Timeout, "time limit of the job")
	flags.Var((*cli.Size)(&f.limits.Output), "output-limit", "limit of the job's output, in bytes")
	return cmd
}

func (f runFlags) run(cmd *cobra.Command, args []string) error {
	if err := f.limits.Check(); err != nil {
		return err
	}
	key, err := readKey(f.key, "machine key", plasm.ParsePrivateKey)
	if err != nil {
		return err
	}
	job, rel, err := f.load(cmd.Context(), args)
	if err != nil {
		return err
	}
	if rel != nil && rel.Job == "" {
		return cli.Print(cmd, map[string]string{"release": rel.Version, "job": ""},
			fmt.Sprintf("plasmd: release %q has no job; nothing to run\n", rel.Version))
	}
	if err := checkKind(job); err != nil {
		return err
	}
	engine := plasm.Process{Args: []string{cmd.Root().Name(), engineVerb}}
	shown := plasm.NewMarked(console(cmd))
	outcome, err := engine.Run(cmd.Context(), job, plasm.Spec{Limits: f.limits}, plasm.IO{Stdout: shown, Stderr: shown})
	shown.Close()
	if err != nil {
		return err
	}
	receipt := plasm.NewReceipt(job, rel, f.limits, outcome)
	if receipt, err = f.sign(cmd, receipt, key); err != nil {
		return err
	}
	if err := f.print(cmd, receipt); err != nil {
		return err
	}
	if !outcome.OK() {
		return fmt.Errorf("job %q failed (%s): %s", job.Name, outcome.Reason, outcome.Detail)
	}
	return nil
}

// console returns where the job's output is printed: on stderr with --json, whose stdout has only the
// receipt.
func console(cmd *cobra.Command) io.Writer {
	if cli.JSON(cmd) {
		return cmd.ErrOrStderr()
	}
	return cmd.OutOrStdout()
}

// readKey reads the key of --key, nil without one.
func readKey[K ~[]byte](path, what string, parse func([]byte) (K, error)) (K, error) {
	if path == "" {
		return nil, nil
	}
	data, err := cli.ReadInput(path, what, maxKey)
	if err != nil {
		return nil, err
	}
	key, err := parse(data)
	if err != nil {
		return nil, fmt.Errorf("%s %s: %w", what, path, err)
	}
	return key, nil
}

// sign signs with the machine's key or, if key is nil, with a new one, and prints a note about it.
func (f runFlags) sign(cmd *cobra.Command, receipt plasm.Receipt, key ed25519.PrivateKey) (plasm.Receipt, error) {
	if key != nil {
		return receipt.Sign(key, false)
	}
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return plasm.Receipt{}, err
	}
	cmd.PrintErrln("plasmd: no --key: the receipt is signed by a key made for this run, which identifies no machine")
	return receipt.Sign(key, true)
}

// load reads the job of the release or the file. The release is nil for a file; the job is empty if the
// release has none.
func (f runFlags) load(ctx context.Context, args []string) (plasm.Job, *manifest.Release, error) {
	switch {
	case f.release != "" && len(args) > 0:
		return plasm.Job{}, nil, cli.Usagef("--release and %s: name one job, not two", args[0])
	case f.release == "" && len(args) == 0:
		return plasm.Job{}, nil, cli.Usagef("no job: name a JOB.wasm, or a release with --release")
	case f.release == "" && f.jobDir != "":
		return plasm.Job{}, nil, cli.Usagef("--job-dir %s: needs --release", f.jobDir)
	case f.release == "":
		module, err := cli.ReadInput(args[0], "job", maxModule)
		if err != nil {
			return plasm.Job{}, nil, err
		}
		job, err := plasm.NewJob(ctx, filepath.Base(args[0]), module)
		return job, nil, err
	}
	data, err := cli.ReadInput(f.release, "release", maxRelease)
	if err != nil {
		return plasm.Job{}, nil, err
	}
	rel, err := plasm.ParseRelease(data)
	if err != nil {
		return plasm.Job{}, nil, fmt.Errorf("%s: %w", f.release, err)
	}
	if rel.Job == "" {
		return plasm.Job{}, &rel, nil
	}
	job, err := plasm.LoadJob(ctx, rel, cmp.Or(f.jobDir, filepath.Dir(f.release)))
	return job, &rel, err
}

// checkKind refuses a file that does not begin as a WebAssembly module. The error names the kind of file
// and wraps cas.ErrCorrupt. The engine checks the declarations of a module, and the receipt has its
// verdict.
func checkKind(job plasm.Job) error {
	if bytes.HasPrefix(job.Module, []byte("\x00asm\x01\x00\x00\x00")) {
		return nil
	}
	if err := bootfile.CheckJob(bytes.NewReader(job.Module), int64(len(job.Module))); err != nil {
		return fmt.Errorf("job %q: %v (%w)", job.Name, err, cas.ErrCorrupt)
	}
	return nil
}

// print writes the receipt as one line to stdout, and to the file of --receipt.
func (f runFlags) print(cmd *cobra.Command, receipt plasm.Receipt) error {
	data, err := receipt.Encode()
	if err != nil {
		return err
	}
	prefix := "plasmd: receipt "
	if cli.JSON(cmd) {
		prefix = ""
	}
	if _, err := fmt.Fprintf(cmd.OutOrStdout(), "%s%s\n", prefix, data); err != nil {
		return err
	}
	if f.receipt == "" {
		return nil
	}
	if err := atomicfile.Write(f.receipt, 0o644, append(data, '\n')); err != nil {
		return fmt.Errorf("receipt: %w", err)
	}
	return nil
}
