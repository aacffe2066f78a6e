package main

import (
	"github.com/spf13/cobra"

	"github.com/phaseboot/phaseboot/internal/cli"
	"github.com/phaseboot/phaseboot/internal/systemd"
	"github.com/phaseboot/phaseboot/manifest"
	"github.com/phaseboot/phaseboot/publisher"
)

func newBootstrap() *cobra.Command {
	var opts publisher.BootstrapOptions
	var daemon daemonFlags
	var root string
	var relay bool
	cmd := &cobra.Command{
		Use:   "bootstrap {--root root.json | --prefix PREFIX} [--listen MULTIADDR …]",
		Short: "Run a DHT node, so that machines find publishers",
		Long: `bootstrap runs a node of a repository's private DHT. It has no release, and no key except
its own. Machines find such nodes in root.json, or in phase.bootstrap= on their command
line. When it listens, it prints one JSON line with its addresses. SIGTERM stops it.

Without --identity it has a new peer ID after every start, and addresses with the old ID
no longer work.`,
		Example: `  phase-publish bootstrap --root root.json --identity bootstrap.key
  phase-publish bootstrap --prefix /phaseboot/k51… --listen /ip4/0.0.0.0/tcp/4001`,
		Args: cli.Args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			if opts.DaemonOptions, err = daemon.parse(cmd); err != nil {
				return err
			}
			if root != "" {
				if opts.Root, err = cli.ReadMetadata(root, "root.json", manifest.KindRoot, "the root.json of the repository"); err != nil {
					return err
				}
			}
			opts.DHT, opts.Relay = publisher.DHTPrivate, relay
			notifier := systemd.NewNotifier(opts.Log)
			defer notifier.Stop()
			opts.Ready = func(r publisher.Ready) error {
				if opts.Identity == "" {
					opts.Log.Warn("new peer ID for this run", "remedy", "name --identity FILE to keep it")
				}
				return ready(cmd, notifier)(r)
			}
			return publisher.Bootstrap(cmd.Context(), opts)
		},
	}
	cmd.Flags().StringVar(&root, "root", "", "root.json with the DHT's prefix")
	cmd.Flags().StringVar(&opts.Prefix, "prefix", "", "the DHT's prefix, /phaseboot/NAME")
	cmd.Flags().StringVar(&daemon.identity, "identity", "", "file with the peer's key, made when missing")
	cmd.Flags().BoolVar(&relay, "relay", false, "also relay for publishers behind routers, and report to them whether they can be dialled")
	daemon.register(cmd)
	cmd.MarkFlagsOneRequired("root", "prefix")
	cmd.MarkFlagsMutuallyExclusive("root", "prefix")
	return cmd
}
