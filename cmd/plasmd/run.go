package main

import (
	"bytes"
	"cmp"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/internal/atomicfile"
	"github.com/phaseboot/phaseboot/internal/bootfile"
	"github.com/phaseboot/phaseboot/internal/cli"
	"github.com/phaseboot/phaseboot/internal/file"
	"github.com/phaseboot/phaseboot/internal/refusal"
	"github.com/phaseboot/phaseboot/manifest"
	"github.com/phaseboot/phaseboot/plasm"
	"github.com/phaseboot/phaseboot/plasm/receipt"
)

// Maximum sizes of input files, in bytes.
const (
	maxKey     = 64 << 10
	maxRelease = 1 << 20
	maxModule  = 32 << 20
)

type runFlags struct {
	specFlags
	release, jobDir, key, receipt string
	marked, noCache               bool
	artifacts                     artifactFiles
}

func runCommand() *cobra.Command {
	f := runFlags{}
	cmd := &cobra.Command{
		Use:   "run [flags] [JOB.wasm] [ARGUMENT …]",
		Short: "Run a job under limits and sign a receipt of the run",
		Long: `Run runs one WASI preview1 command: the job of a release, which must match its signed
entry, or a file. The job gets its name, the arguments after it (with --release: after --),
and what the flags grant: no files, environment, clock or stdin without one, and never a
network. Flags after JOB.wasm are arguments of the job.

stdout, stderr and the exit code are those of the job. The receipt is written to the file
of --receipt, or printed on stderr as one line. With --marked, for a console that others
write to, each line of the job is printed on stdout after "job: ", then the receipt. With
--json stdout has the receipt only, and stderr the lines of the job. Ctrl-C ends the job
without a receipt.

Without --grant clock the job has a clock of its own, which starts at a fixed time; a job
that sleeps does not wait then: its clock goes on by that time.

The job runs in a process of its own, which is killed at the time limit. plasmd uses at
most 64M in addition to --memory. The code of the job counts against --memory: about 25
bytes for each byte of the module.

The code that the compiler makes is stored in $XDG_CACHE_HOME/plasm/code (~/.cache), at most
256M, unless --no-cache or --release is given. The next run of the module uses it, also if
--timeout alone would choose the interpreter.

Exit code: that of the job; 0 if the release has no job; 1 if the job was stopped at a
limit, which the receipt names, or, with --marked, if it failed.`,
		Example: `  plasmd run bin/hello.wasm >greeting
  plasmd run --stdin --receipt receipt.json bin/reverse.wasm <words
  plasmd run --marked --release /run/phase/release.json --key /run/phase/machine.key`,
		Args: cli.Args(cobra.ArbitraryArgs),
		RunE: func(cmd *cobra.Command, args []string) error { return f.run(cmd, args) },
	}
	flags := cmd.Flags()
	flags.StringVar(&f.release, "release", "", "verified release as JSON; its job is in the same folder")
	flags.StringVar(&f.jobDir, "job-dir", "", "folder with the job, named by its role (default: the folder of --release)")
	flags.StringVar(&f.key, "key", "", "key of the machine that signs the receipt, Ed25519 in PKCS #8 PEM (default: a new key for this run)")
	flags.StringVar(&f.receipt, "receipt", "", "write the receipt to this file (default: one line on stderr)")
	flags.BoolVar(&f.marked, "marked", false, "print the job's lines after a mark and then the receipt, all on stdout")
	f.register(cmd)
	flags.DurationVar(&f.spec.Limits.Compile, "compile-timeout", 0, "limit of the time until the code of the job is ready (default: --timeout)")
	flags.BoolVar(&f.noCache, "no-cache", false, "do not read or store compiled code")
	flags.StringArrayVar((*[]string)(&f.artifacts), "artifact", nil, "ROLE=FILE: let the job read a file at /artifacts/ROLE; may be repeated")
	flags.SetInterspersed(false)
	return cmd
}

func (f runFlags) run(cmd *cobra.Command, args []string) error {
	args, more := f.split(cmd, args)
	spec, err := f.grant(more)
	if err != nil {
		return err
	}
	key, err := readKey(f.key, "machine key", plasm.ParsePrivateKey)
	if err != nil {
		return err
	}
	if f.receipt != "" {
		if err := atomicfile.Check(f.receipt); err != nil {
			return fmt.Errorf("receipt: %w", err)
		}
	}
	job, rel, err := f.load(cmd.Context(), args)
	if err != nil {
		return err
	}
	if rel != nil && rel.Job == "" {
		return cli.Print(cmd, map[string]string{"release": rel.Version, "job": ""},
			fmt.Sprintf("plasmd: release %q has no job; nothing to run\n", rel.Version))
	}
	name := job.Name
	if rel == nil {
		name = args[0]
	}
	if err := checkKind(name, job.Module); err != nil {
		return err
	}
	facts, err := f.facts(rel)
	if err != nil {
		return err
	}
	groups, _ := plasm.OpenCgroups() // an error: resource limits only, and the receipt says so
	engine := plasm.Process{Args: []string{cmd.Root().Name(), engineVerb}, Cgroups: groups, Code: f.code()}
	std, done, err := f.streams(cmd, rel)
	if err != nil {
		return err
	}
	stdout, stderr := &kept{to: std.Stdout}, &kept{to: std.Stderr}
	std.Stdout, std.Stderr = stdout, stderr
	outcome, err := engine.Run(cmd.Context(), job, spec, std)
	done()
	if err != nil {
		return err
	}
	facts.Job, facts.Spec, facts.Outcome = job, spec, outcome
	signed, err := f.sign(cmd, receipt.New(facts), key)
	if err != nil {
		return err
	}
	if err := f.print(cmd, signed); err != nil {
		return err
	}
	if err := cmp.Or(stdout.err, stderr.err); err != nil {
		return fmt.Errorf("job %q: its output is not complete here: %w", job.Name, file.FullDisk(err))
	}
	return f.exit(cmd, job, outcome)
}

// A kept is a writer that remembers its first error, which does not stop the job.
type kept struct {
	to  io.Writer
	err error
}

func (k *kept) Write(p []byte) (int, error) {
	n, err := k.to.Write(p)
	k.err = cmp.Or(k.err, err)
	return n, err
}

// code returns the cache of compiled code of this user. A job of a release has none: its machine may have
// booted in a mode that writes to no disk. A user without a folder for caches has none either.
func (f runFlags) code() *plasm.CodeCache {
	dir, err := os.UserCacheDir()
	if err != nil || f.noCache || f.release != "" {
		return nil
	}
	return plasm.NewCodeCache(filepath.Join(dir, "plasm", "code"), nil)
}

// split returns the file of the job, if the command line names one, and the arguments of the job.
func (f runFlags) split(cmd *cobra.Command, args []string) (path, more []string) {
	switch {
	case len(args) == 0 || f.release != "" && cmd.ArgsLenAtDash() == 0:
		return nil, args
	default:
		return args[:1], args[1:]
	}
}

// grant returns the spec with what --artifact adds.
func (f runFlags) grant(args []string) (plasm.Spec, error) {
	spec, err := f.parse(args)
	if err != nil {
		return spec, err
	}
	roles, err := f.artifacts.roles()
	if err != nil {
		return spec, err
	}
	spec.Grants.Artifacts = append(spec.Grants.Artifacts, roles...)
	return spec, spec.Check()
}

// streams returns the job's streams, and what to call after the run.
func (f runFlags) streams(cmd *cobra.Command, rel *manifest.Release) (std plasm.IO, done func(), err error) {
	std = plasm.IO{Stdin: cmd.InOrStdin(), Stdout: cmd.OutOrStdout(), Stderr: cmd.ErrOrStderr()}
	shown := plasm.NewMarked(console(cmd))
	done = func() { shown.Close() }
	if f.marked || cli.JSON(cmd) {
		std.Stdout, std.Stderr = shown, shown
	}
	if info, err := os.Stdin.Stat(); f.stdin && err == nil && info.IsDir() {
		return std, nil, cli.Usagef("stdin: is a directory; give the job a file")
	}
	if f.input != "" {
		input, err := cli.OpenInput(f.input, "input")
		if err != nil {
			return std, nil, err
		}
		std.Stdin, done = input, func() { shown.Close(); input.Close() }
	}
	std.Artifacts = func(role string) (*os.File, error) {
		return f.artifacts.open(role, rel, cmp.Or(f.jobDir, filepath.Dir(f.release)))
	}
	return std, done, nil
}

// exit returns the error with the exit code of the job. The job itself has said why it failed.
func (f runFlags) exit(cmd *cobra.Command, job plasm.Job, o plasm.Outcome) error {
	failed := failedText(job.Name, o.Reason, o.Detail)
	switch {
	case o.OK():
		return nil
	case f.marked || o.Reason != plasm.ReasonExit:
		return errors.New(failed)
	case cli.JSON(cmd) || o.ExitCode > 255:
		return cli.Exitf(o.ExitCode, "%s", failed)
	default:
		return cli.Exitf(o.ExitCode, "")
	}
}

// failedText describes the end of a job that failed, and names the flag of the limit that ended it.
func failedText(name, reason, detail string) string {
	detail = strings.TrimPrefix(detail, fmt.Sprintf("job %q: ", name)) // of an error of the engine
	text := fmt.Sprintf("job %q failed (%s): %s", name, reason, detail)
	flag := map[string]string{
		plasm.ReasonTimeout: "--timeout",
		plasm.ReasonCPU:     "--cpu",
		plasm.ReasonMemory:  "--memory",
		plasm.ReasonOutput:  "--output-limit",
		plasm.ReasonScratch: "--grant scratch=SIZE",
	}[reason]
	if flag == "" || strings.Contains(detail, "; ") { // the detail has a remedy
		return text
	}
	return text + "; " + flag + " raises the limit"
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

// facts returns what a receipt states about the machine: its release, and the boot report and root version that the
// boot client has left beside it.
func (f runFlags) facts(rel *manifest.Release) (receipt.Facts, error) {
	facts := receipt.Facts{Release: rel}
	if rel == nil {
		return facts, nil
	}
	dir := filepath.Dir(f.release)
	report, err := cli.ReadInput(filepath.Join(dir, "report.json"), "boot report", maxReport)
	if err == nil {
		facts.Report = fmt.Sprintf("%x", sha256.Sum256(report))
	} else if !errors.Is(err, fs.ErrNotExist) {
		return facts, err
	}
	root, err := cli.ReadInput(filepath.Join(dir, "root.json"), "root", manifest.MaxRoot)
	if errors.Is(err, fs.ErrNotExist) {
		return facts, nil
	}
	if err != nil {
		return facts, err
	}
	parsed, err := manifest.ParseRoot(root)
	if err != nil {
		return facts, fmt.Errorf("%s: %w", dir, err)
	}
	facts.Root = parsed.Version()
	return facts, nil
}

// sign signs with the machine's key or, if key is nil, with a new one, and prints a note about it.
func (f runFlags) sign(cmd *cobra.Command, r receipt.Receipt, key ed25519.PrivateKey) (receipt.Signed, error) {
	if key != nil {
		return r.Sign(key, false)
	}
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return receipt.Signed{}, err
	}
	if f.marked || f.receipt != "" || cli.JSON(cmd) {
		cmd.PrintErrln("plasmd: no --key: the receipt is signed by a key made for this run, which identifies no machine")
	}
	return r.Sign(key, true)
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
		if info, err := os.Stat(args[0]); err == nil && info.Mode().IsRegular() && info.Size() > maxModule {
			return plasm.Job{}, nil, refusal.New(cas.ErrCorrupt, "job %s: %d bytes, the limit of a module is %d; is this the right file?", args[0], info.Size(), maxModule)
		}
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

// checkKind refuses a file that does not begin as a WebAssembly module. The error names the file, as the command
// line does, and its kind, and wraps cas.ErrCorrupt. The engine checks the declarations of a module, and the
// receipt has its verdict.
func checkKind(name string, module []byte) error {
	if bytes.HasPrefix(module, []byte("\x00asm\x01\x00\x00\x00")) {
		return nil
	}
	if err := bootfile.CheckJob(bytes.NewReader(module), int64(len(module))); err != nil {
		return fmt.Errorf("job %s: %v (%w)", name, err, cas.ErrCorrupt)
	}
	return nil
}

// print writes the receipt as one line to stderr or, with --marked, to stdout, with --json as its envelope, and the envelope to the file of
// --receipt.
func (f runFlags) print(cmd *cobra.Command, signed receipt.Signed) error {
	line := signed.Line()
	if cli.JSON(cmd) {
		line = string(signed.Bytes())
	}
	to := cmd.OutOrStdout()
	if !f.marked && !cli.JSON(cmd) {
		to = cmd.ErrOrStderr()
	}
	if f.receipt == "" || f.marked || cli.JSON(cmd) {
		if _, err := fmt.Fprintln(to, line); err != nil {
			return err
		}
	}
	if f.receipt == "" {
		return nil
	}
	if err := atomicfile.Write(f.receipt, 0o644, append(signed.Bytes(), '\n')); err != nil {
		return fmt.Errorf("receipt: %w", err)
	}
	return nil
}
