package main

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"

	"github.com/spf13/cobra"

	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/internal/cli"
	"github.com/phaseboot/phaseboot/internal/refusal"
	"github.com/phaseboot/phaseboot/manifest"
	"github.com/phaseboot/phaseboot/plasm"
	"github.com/phaseboot/phaseboot/plasm/receipt"
)

// maxInput is the maximum size of the input of a replay, in bytes.
const maxInput = 64 << 20

type verifyFlags struct {
	key, release, root, repo, replay, input string
}

func verifyCommand() *cobra.Command {
	var f verifyFlags
	cmd := &cobra.Command{
		Use:   "verify RECEIPT …",
		Short: "Check a receipt: its signature, its release, and its result",
		Long: `Verify checks that a receipt was not changed since a machine signed it. RECEIPT is the file
of 'plasmd run --receipt' or 'plasmd submit --receipts', or a file with the one line that a
console has of it. Several are all checked; the exit code is the greatest of all.

The receipt names the key of the machine. With --key, it must name this key: only that shows
which machine signed it. With --root, the release that the receipt names is read from the
folder of root.json (or --repo) and verified, and the module must be one of its jobs, or
ordered by one of its submitters. With --release alone, the release is a file that
'phase-boot fetch' wrote after its own check.

With --replay, the module runs again here, with the arguments and limits of the receipt, and
must write the same and exit in the same way. Only a job without the clock, the random
numbers and the artifacts of its machine can be replayed.

Exit code 1: the replay differs. 3: signed by another key, changed, or of another release.
5: not a receipt, or another module or input.`,
		Example: `  plasmd run --receipt receipt.json --key machine.key bin/hello.wasm
  plasmd verify receipt.json --key machine.key.pub
  plasmd verify receipt.json --root repo/root.json --replay bin/hello.wasm
  plasmd verify receipts/*.json --root repo/root.json`,
		Args: cli.Args(cobra.MinimumNArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error { return f.run(cmd, args) },
	}
	flags := cmd.Flags()
	flags.StringVar(&f.key, "key", "", "the machine's public key, Ed25519 in PKIX PEM, or 64 hex digits")
	flags.StringVar(&f.release, "release", "", "release.json of 'phase-boot fetch'; with --root also a signed manifest")
	flags.StringVar(&f.root, "root", "", "the root.json to trust for the release")
	flags.StringVar(&f.repo, "repo", "", "folder with newer roots, N.targets.json and the release (default: that of root.json)")
	flags.StringVar(&f.replay, "replay", "", "module of the job, which is run again")
	flags.StringVar(&f.input, "input", "", "input of the job, for --replay")
	return cmd
}

// verified is the result of verify with --json.
type verified struct {
	File     string          `json:"file,omitempty"` // of several
	Receipt  receipt.Receipt `json:"receipt"`
	Known    bool            `json:"known_machine"`     // --key was given and matches
	Release  *receipt.Chain  `json:"release,omitempty"` // --root or --release was given, and the module belongs to it
	Trusted  bool            `json:"trusted_release"`   // the release was verified by --root
	Replayed bool            `json:"replayed"`          // the module ran again and gave the same
}

// run verifies one receipt, or several: then each result names its file, and with --json is one line.
func (f verifyFlags) run(cmd *cobra.Command, paths []string) error {
	if err := f.check(); err != nil {
		return err
	}
	key, err := readMachineKey(f.key)
	if err != nil {
		return err
	}
	failed, worst := 0, 0
	for _, path := range paths {
		v, err := f.verify(cmd, path, key)
		switch {
		case err == nil:
			if len(paths) > 1 {
				v.File = path
			}
			if err := cli.Print(cmd, v, v.text()); err != nil {
				return err
			}
		case len(paths) == 1, errors.Is(err, context.Canceled):
			return err
		default:
			note("%s", cli.Message(err))
			failed, worst = failed+1, max(worst, cli.Code(err))
		}
	}
	if failed > 0 {
		return cli.Exitf(int64(worst), "%d of %d receipts failed; the lines above name them", failed, len(paths))
	}
	return nil
}

// verify verifies one receipt.
func (f verifyFlags) verify(cmd *cobra.Command, path string, key ed25519.PublicKey) (v verified, err error) {
	data, err := cli.ReadInput(path, "receipt", receipt.MaxEnvelope+1)
	if err != nil {
		return v, err
	}
	signed, err := receipt.Parse(data)
	if err != nil {
		return v, fmt.Errorf("%s: %w", path, err)
	}
	if err := signed.Verify(key); err != nil {
		return v, fmt.Errorf("%s: %w", path, err)
	}
	v = verified{Receipt: signed.Receipt, Known: key != nil, Trusted: f.root != ""}
	if v.Release, err = f.chain(cmd.Context(), signed); err != nil {
		return v, fmt.Errorf("%s: %w", path, err)
	}
	if f.replay != "" {
		if err := f.again(cmd, signed); err != nil {
			return v, fmt.Errorf("%s: %w", path, err)
		}
		v.Replayed = true
	}
	return v, nil
}

func (f verifyFlags) check() error {
	switch {
	case f.repo != "" && f.root == "":
		return cli.Usagef("--repo %s: needs --root, the root.json that it is judged by", f.repo)
	case f.input != "" && f.replay == "":
		return cli.Usagef("--input %s: needs --replay, the module that reads it", f.input)
	}
	return nil
}

var hexDigits = regexp.MustCompile(`^[0-9a-fA-F]{4,}$`)

// readMachineKey reads the key of --key, nil without one.
func readMachineKey(name string) (ed25519.PublicKey, error) {
	const digits = 2 * ed25519.PublicKeySize
	if hexDigits.MatchString(name) && len(name) == digits {
		return hex.DecodeString(name)
	}
	if _, err := os.Lstat(name); err != nil && hexDigits.MatchString(name) {
		return nil, refusal.New(cas.ErrCorrupt, "public key %.80s: %d hex digits; an Ed25519 key has %d", name, len(name), digits)
	}
	return readKey(name, "public key", plasm.ParsePublicKey)
}

// chain compares the receipt with the release of --root or --release. It returns nil without both.
func (f verifyFlags) chain(ctx context.Context, signed receipt.Signed) (*receipt.Chain, error) {
	if f.release == "" && f.root == "" {
		return nil, nil
	}
	rel, err := f.findRelease(ctx, signed)
	if err != nil {
		return nil, err
	}
	c, err := signed.CheckRelease(rel)
	return &c, err
}

// findRelease reads the release: from a repository, from a signed manifest, or from a file that another program has
// verified.
func (f verifyFlags) findRelease(ctx context.Context, signed receipt.Signed) (manifest.Release, error) {
	var root, release []byte
	var err error
	dir := f.repo
	if f.root != "" {
		if root, err = cli.ReadMetadata(f.root, "root", manifest.KindRoot, "the root.json of the repository"); err != nil {
			return manifest.Release{}, err
		}
		if dir == "" {
			dir = filepath.Dir(f.root)
		}
	}
	if f.release == "" {
		return signed.FindRelease(ctx, root, dir)
	}
	if release, err = cli.ReadInput(f.release, "release", maxRelease); err != nil {
		return manifest.Release{}, err
	}
	kind, err := manifest.KindOf(release)
	isManifest := err == nil && kind == manifest.KindRole
	switch {
	case isManifest && root == nil:
		return manifest.Release{}, cli.Usagef("--release %s: a signed manifest; name the root.json that it is judged by with --root", f.release)
	case isManifest:
		return receipt.CheckManifest(ctx, root, dir, release)
	case root != nil:
		return manifest.Release{}, cli.Usagef("--release %s: not a signed manifest, which --root could judge; name a manifest, or leave one of them out", f.release)
	}
	return plasm.ParseRelease(release)
}

// again runs the module again and compares the result with the receipt.
func (f verifyFlags) again(cmd *cobra.Command, signed receipt.Signed) error {
	module, err := cli.ReadInput(f.replay, "module", maxModule)
	if err != nil {
		return err
	}
	var input []byte
	if f.input != "" {
		if input, err = cli.ReadInput(f.input, "input", maxInput); err != nil {
			return err
		}
	}
	job, err := plasm.NewJob(cmd.Context(), filepath.Base(f.replay), module)
	if err != nil {
		return err
	}
	job, spec, err := signed.Replay(job, input)
	if err != nil {
		return err
	}
	if is, was := plasm.EngineVersion(), signed.Run.Engine.Version; is != was {
		cmd.PrintErrf("plasmd: the replay runs on %s, the job ran on %s\n", is, was)
	}
	engine := plasm.Process{Args: []string{cmd.Root().Name(), engineVerb}}
	outcome, err := engine.Run(cmd.Context(), job, spec, plasm.IO{Stdin: bytes.NewReader(input)})
	if err != nil {
		return err
	}
	return signed.Differs(outcome)
}

// text describes the receipt to a person.
func (v verified) text() string {
	r := v.Receipt.Run
	stdout, stderr := v.Receipt.Output(receipt.Stdout), v.Receipt.Output(receipt.Stderr)
	ran := "never ran"
	if !r.Started.IsZero() {
		ran = fmt.Sprintf("%s, compiled in %d ms, ran %d ms on %s %s, memory peak %d bytes", r.Started.Format("2006-01-02T15:04:05Z"), r.Durations.Compile, r.Durations.Run, r.Engine.Version, r.Engine.Name, r.MemoryPeak)
	}
	text := ""
	if v.File != "" {
		text = v.File + "\n"
	}
	text += fmt.Sprintf(`receipt: unchanged, signed by %s
machine  %s
job      %q, module %s from %s
started  %s
ended    %s, exit code %d, stdout %d bytes, stderr %d bytes
`, v.signer(), r.Machine.Key, r.Name, r.Module.CID, v.from(), ran, r.Reason, r.ExitCode, stdout.Length, stderr.Length)
	if v.Replayed {
		text += "replay   the same output and exit\n"
	}
	return text
}

func (v verified) signer() string {
	switch {
	case v.Known:
		return "the key that --key names"
	case v.Receipt.Run.Machine.Ephemeral:
		return "a key made for that run, which identifies no machine"
	}
	return "the key that it names; use --key to check which machine this is"
}

// from says where the module came from, and how far that was checked.
func (v verified) from() string {
	rel := v.Receipt.Run.Release
	if rel == nil {
		return "a file"
	}
	from := fmt.Sprintf("release %s of %s-%s", rel.Version, rel.Channel, rel.Arch)
	if v.Release == nil {
		return from + ", not checked"
	}
	if v.Release.Role == "" {
		from = fmt.Sprintf("submitter %q of %s", v.Release.Submitter, from)
	} else if v.Release.Submitter != "" {
		from += fmt.Sprintf(", ordered by submitter %q", v.Release.Submitter)
	}
	if v.Trusted {
		return from + ", verified by the root"
	}
	return from + ", as --release has it"
}
