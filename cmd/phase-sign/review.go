package main

import (
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/phaseboot/phaseboot/internal/cli"
	"github.com/phaseboot/phaseboot/signer"
)

func newAdd() *cobra.Command {
	var (
		spec     signer.AddSpec
		keys     []string
		passFile string
	)
	cmd := &cobra.Command{
		Use:   "add --key KEY FILE …",
		Short: "Add a signature to a release manifest, a root or targets",
		Long: `add signs FILE in place and prints what 'phase-sign show' prints. The keys that may sign it are
listed in root.json and N.targets.json in the folder of FILE, or in the folder that --repo names.
With --digest it signs only if the content is still the reviewed one.`,
		Example: `  phase-sign add --key second.key --repo repo RELEASE.json
  phase-sign add --key second.key --repo repo --digest 3f5c… RELEASE.json
  phase-sign add --key keys/second-root repo/1.root.json repo/1.targets.json`,
		Args: cli.Args(cobra.MinimumNArgs(1)),
		RunE: func(cmd *cobra.Command, files []string) error {
			if spec.Digest != "" && len(files) > 1 {
				return cli.Usagef("--digest: belongs to one file; name one file")
			}
			var err error
			if spec.Keys, err = loadKeys(cmd.Context(), keys, passphrases(passFile)); err != nil {
				return err
			}
			spec.Now = time.Now()
			return addAll(cmd, spec, files)
		},
	}
	cmd.Flags().StringArrayVar(&keys, "key", nil, "key to sign with (repeatable)")
	cmd.Flags().StringVar(&spec.Repo, "repo", "", "folder with root.json and N.targets.json (default: that of FILE)")
	cmd.Flags().StringVar(&spec.Digest, "digest", "", "the digest that 'phase-sign show' printed")
	passphraseFlag(cmd, &passFile)
	require(cmd, "key")
	return cmd
}

// addAll signs and prints each file.
func addAll(cmd *cobra.Command, spec signer.AddSpec, files []string) error {
	var words strings.Builder
	list := make([]signer.Summary, 0, len(files))
	for _, path := range files {
		spec.File = path
		sum, err := signer.Add(cmd.Context(), spec)
		if err != nil {
			return err
		}
		list = append(list, sum)
		words.WriteString(path + ": " + sum.Words(spec.Now))
	}
	return cli.Print(cmd, struct {
		Files []signer.Summary `json:"files"`
	}{list}, words.String())
}

func newShow() *cobra.Command {
	var spec signer.ShowSpec
	cmd := &cobra.Command{
		Use:   "show FILE",
		Short: "Describe a metadata file and its signatures",
		Long: `show describes a release manifest, a root or any other metadata file. With --repo it prints which
of the listed keys have signed, and the changes of a release since the previous one there.`,
		Example: `  phase-sign show --repo repo RELEASE.json
  phase-sign show --previous OLD.json NEW.json
  phase-sign show repo/root.json`,
		Args: cli.Args(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			spec.File = args[0]
			sum, err := signer.Show(spec)
			if sum.File == "" {
				return err
			}
			if printErr := cli.Print(cmd, sum, sum.Words(time.Now())); printErr != nil {
				return printErr
			}
			return err
		},
	}
	cmd.Flags().StringVar(&spec.Repo, "repo", "", "folder with root.json and N.targets.json (default: that of FILE)")
	cmd.Flags().StringVar(&spec.Previous, "previous", "", "release to compare with (default: the newest older one in --repo)")
	return cmd
}

func newVerify() *cobra.Command {
	var spec signer.VerifySpec
	cmd := &cobra.Command{
		Use:   "verify --root root.json FILE …",
		Short: "Check signatures, thresholds, dates and paths against a trusted root.json",
		Long: `verify verifies release manifests and other metadata with a root.json that you trust. The keys of
releases are listed in the newest N.targets.json. It and newer roots are read from the folder of
root.json, or from the folder that --repo names. With --artifacts it compares the files of a folder
with the release: DIR/kernel, DIR/initramfs, DIR/rootfs, DIR/dtb/NAME, DIR/job/NAME.wasm, or files of
other names with the right content. The last line is the verdict.`,
		Example: `  phase-sign verify --root repo/root.json RELEASE.json
  phase-sign verify --root /etc/phase/root.json --repo repo RELEASE.json
  phase-sign verify --root repo/root.json --artifacts artifacts RELEASE.json`,
		Args: cli.Args(cobra.MinimumNArgs(1)),
		RunE: func(cmd *cobra.Command, files []string) error {
			spec.Files, spec.Now = files, time.Now()
			progress := cli.NewProgress(cmd.Context())
			defer progress.Close()
			spec.Watch = func(path string, size int64, r io.Reader) io.ReadCloser { return progress.Watch(path, size, r) }
			v, err := signer.Verify(cmd.Context(), spec)
			progress.Close()
			if err != nil {
				return err
			}
			return cli.Print(cmd, v, v.Words(spec.Now))
		},
	}
	cmd.Flags().StringVar(&spec.Root, "root", "", "the root.json to trust")
	cmd.Flags().StringVar(&spec.Repo, "repo", "", "folder with newer roots and N.targets.json (default: that of root.json)")
	cmd.Flags().StringVar(&spec.Artifacts, "artifacts", "", "folder with the files of the release, to compare with it")
	require(cmd, "root")
	return cmd
}
