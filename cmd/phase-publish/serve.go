package main

import (
	"encoding/json"
	"log/slog"
	"os"

	"github.com/spf13/cobra"

	"github.com/phaseboot/phaseboot/internal/cli"
	"github.com/phaseboot/phaseboot/internal/p2p"
	"github.com/phaseboot/phaseboot/publisher"
)

// networkFlags are those of serve and bootstrap.
type networkFlags struct{ listen, announce, bootstrap []string }

func (f *networkFlags) register(cmd *cobra.Command) {
	f.listen = []string{"/ip4/0.0.0.0/tcp/4001", "/ip4/0.0.0.0/udp/4001/quic-v1", "/ip6/::/tcp/4001", "/ip6/::/udp/4001/quic-v1"}
	cmd.Flags().StringArrayVar(&f.listen, "listen", f.listen, "libp2p `multiaddr` to listen on (repeatable)")
	cmd.Flags().StringArrayVar(&f.announce, "announce", nil, "`multiaddr` to tell others beside our own, for one behind a router (repeatable)")
	cmd.Flags().StringArrayVar(&f.bootstrap, "bootstrap", nil, "`multiaddr` with /p2p/ID of a DHT node, beside those in root.json (repeatable)")
}

func (f *networkFlags) parse() (n publisher.Network, err error) {
	if n.Listen, err = p2p.ParseAddrs(f.listen); err != nil {
		return n, cli.Usagef("--listen: %v", err)
	}
	if n.Announce, err = p2p.ParseAddrs(f.announce); err != nil {
		return n, cli.Usagef("--announce: %v", err)
	}
	if n.Bootstrap, err = p2p.ParsePeers(f.bootstrap); err != nil {
		return n, cli.Usagef("--bootstrap: %v", err)
	}
	return n, nil
}

// ready prints the line that says that the daemon can be used.
func ready(cmd *cobra.Command) func(publisher.Ready) error {
	return func(r publisher.Ready) error {
		return json.NewEncoder(cmd.OutOrStdout()).Encode(r)
	}
}

func logger() *slog.Logger { return slog.New(slog.NewTextHandler(os.Stderr, nil)) }

func newServe() *cobra.Command {
	var opts publisher.ServeOptions
	var online onlineFlags
	var network networkFlags
	var ipns, dht string
	cmd := &cobra.Command{
		Use:   "serve --store DIR --repo DIR --online-key KEY --ipns-key KEY",
		Short: "Serve the releases until stopped",
		Long: `serve answers for the blocks and the metadata over HTTP and over libp2p streams,
announces itself by mDNS and in the DHT, keeps the IPNS record fresh, and signs the
timestamp again before it expires. It picks up a new head by itself. When everything
listens it prints one JSON line with its addresses. SIGTERM stops it: requests under way
have five seconds to finish.`,
		Example: `  phase-publish serve --store store --repo repo --online-key online.key --ipns-key ipns.key
  phase-publish serve --store store --repo repo --online-key online.key --ipns-key ipns.key \
    --http 192.0.2.7:80 --listen /ip4/192.0.2.7/tcp/4001 --mdns=false`,
		Args: cli.Args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			if opts.Network, err = network.parse(); err != nil {
				return err
			}
			opts.DHT = dht
			if opts.Online, err = online.load(cmd.Context()); err != nil {
				return err
			}
			if opts.IPNS, err = loadIPNS(cmd.Context(), ipns, online.passFile); err != nil {
				return err
			}
			opts.Log, opts.Ready = logger(), ready(cmd)
			return publisher.Serve(cmd.Context(), opts)
		},
	}
	cmd.Flags().StringVar(&opts.Store, "store", "", "folder of the store")
	cmd.Flags().StringVar(&opts.Repo, "repo", "", "folder of the repository")
	online.register(cmd)
	cmd.Flags().StringVar(&ipns, "ipns-key", "", "key of the IPNS name in root.json")
	cmd.Flags().StringVar(&opts.Identity, "identity", "", "file with the peer's key, made when missing (default STORE/peer.key)")
	cmd.Flags().StringVar(&opts.HTTP, "http", ":8080", "`address` of the plain HTTP listener, empty for none")
	network.register(cmd)
	cmd.Flags().StringVar(&dht, "dht", publisher.DHTPrivate, "private, public or off")
	cmd.Flags().BoolVar(&opts.MDNS, "mdns", true, "announce on the local network")
	require(cmd, "store", "repo", "ipns-key")
	return cmd
}
