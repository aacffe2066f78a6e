package main

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"

	"github.com/phaseboot/phaseboot/internal/cli"
	"github.com/phaseboot/phaseboot/publisher/bucket"
	"github.com/phaseboot/phaseboot/publisher/mirror"
	"github.com/phaseboot/phaseboot/publisher/netboot"
)

func newExport() *cobra.Command {
	var opts mirror.Options
	var keys []string
	var passFile, boot string
	var prune bool
	targets := true
	grace := mirror.DefaultGrace
	cmd := &cobra.Command{
		Use:   "export --store DIR --repo DIR --out DIR [--ipns-key KEY]",
		Short: "Write the releases as a folder that any web server can serve",
		Long: `export writes files whose paths are the URLs of a gateway: ipfs/CID and ipns/NAME for
machines, tuf/metadata/NAME and tuf/targets/DIR/SHA256.NAME for other TUF clients. Any web
server can serve the folder as it is; machines use its address as a mirror. The folder must
be new, empty, or a mirror that export wrote, because the web server would serve any other
file in it.

The files in tuf/targets/ are the artifacts once more, as whole files: they double the size
of the mirror. --tuf-targets=false leaves them out; machines do not need them.

export writes missing files, and signs a new record when the pointer moved or the record is
12 hours old. Run it every hour: a timestamp is valid for a day, and phase-publish serve
signs it again. It exits 3 when machines refuse a release, and still writes the other
releases. It keeps files that no release needs any more for --grace. It may be killed and
run again at any moment, and clients may read meanwhile.

With --out s3://BUCKET/PREFIX it writes objects, for a CDN or for machines that read the bucket
over HTTP. Blocks and artifacts may be cached for ever, and have a Cache-Control that says so.`,
		Example: `  phase-publish export --store store --repo repo --ipns-key keys/ipns --out /var/www/phase
  phase-publish export --store store --repo repo --ipns-key keys/ipns --out s3://cdn/phase
  phase-publish export --store store --repo repo --ipns-key keys/ipns --out mirror && rsync -aH --delay-updates --delete-delay mirror/ www.example:mirror/`,
		Args: cli.Args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if boot != "" && bucket.Is(opts.Out) {
				return cli.Usagef("--netboot: is for a folder; copy the EFI programs below netboot/ of the bucket")
			}
			warnExposed(append(slices.Clone(keys), passFile)...)
			for _, uri := range keys {
				key, err := loadIPNS(cmd.Context(), uri, passFile)
				if err != nil {
					return err
				}
				opts.IPNS = append(opts.IPNS, key)
			}
			if opts.Grace = grace; prune {
				opts.Grace = 0
			}
			programs, err := netbootFiles(boot)
			if err != nil {
				return err
			}
			progress := cli.NewProgress(cmd.Context())
			opts.NoTargets = !targets
			opts.Progress, opts.Log = progress.Count("files"), stderrLog()
			done, err := mirror.Export(cmd.Context(), opts)
			progress.Close()
			if err != nil {
				return err
			}
			result := exported{Exported: done}
			if programs != nil {
				if result.Netboot, err = programs.Export(opts.Out); err != nil {
					return err
				}
			}
			return errors.Join(done.Err(), cli.Print(cmd, result, exportedWords(result)))
		},
	}
	storeFlags(cmd, &opts.Store, &opts.Repo)
	cmd.Flags().StringVar(&opts.Out, "out", "", "folder of the mirror, made when missing, or s3://BUCKET/PREFIX[?endpoint=URL]")
	cmd.Flags().StringArrayVar(&keys, "ipns-key", nil, "`key` of an IPNS name in root.json (repeatable); without one, no record is written")
	cmd.Flags().StringVar(&passFile, "passphrase-file", "", "read the passphrase from the first line of this file")
	cmd.Flags().StringVar(&boot, "netboot", "", "EFI program of phase-image uki, or a `folder` with such files, to copy below netboot/")
	cli.DurationVar(cmd.Flags(), &grace, "grace", maxDays, "how long to keep files that no release needs any more")
	cmd.Flags().BoolVar(&prune, "prune", false, "no grace: remove files at once that no release needs")
	cmd.Flags().BoolVar(&opts.Verify, "verify", false, "hash the blocks and targets that are there, and replace wrong ones")
	cmd.Flags().BoolVar(&targets, "tuf-targets", true, "write the artifacts as whole files too, for other TUF clients")
	cmd.MarkFlagsMutuallyExclusive("grace", "prune")
	require(cmd, "out")
	return cmd
}

// exported is the result of export.
type exported struct {
	mirror.Exported
	Netboot []string `json:"netboot,omitempty"` // files that were written below netboot/
}

// netbootFiles opens the files that --netboot names, nil for "".
func netbootFiles(path string) (*netboot.Files, error) {
	if path == "" {
		return nil, nil
	}
	return netboot.Open(path, stderrLog())
}

func exportedWords(e exported) string {
	var b strings.Builder
	fmt.Fprintf(&b, "wrote %s, %s; kept %s; not needed: %s kept for the grace, %s removed\n",
		count(int64(e.WrittenFiles), "file"), size(e.WrittenBytes), humanize.Comma(int64(e.KeptFiles)), humanize.Comma(int64(e.WaitingFiles)), humanize.Comma(int64(e.RemovedFiles)))
	for _, r := range e.Releases {
		fmt.Fprintf(&b, "release %s\n", r)
	}
	fmt.Fprintf(&b, "pointer %s, timestamp %d, valid until %s\n", e.Pointer, e.Timestamp, e.Expires.Format(time.RFC3339))
	for _, name := range e.Records {
		fmt.Fprintf(&b, "record %s\n", name)
	}
	if len(e.Records) == 0 {
		b.WriteString("no record: machines use these files only when another source has the pointer; --ipns-key writes one\n")
	}
	if e.Targets > 0 {
		fmt.Fprintf(&b, "tuf/targets: %s, %s on the disk\n", count(int64(e.Targets), "artifact"), size(e.TargetBytes))
	}
	for _, name := range e.Netboot {
		fmt.Fprintf(&b, "wrote netboot/%s\n", name)
	}
	if e.LeftOut != "" {
		fmt.Fprintf(&b, "left out %s\n", e.LeftOut)
	}
	if e.Warning != "" {
		fmt.Fprintf(&b, "warning: %s\n", e.Warning)
	}
	return b.String()
}
