package main

import (
	"encoding/json"
	"errors"
	"net"

	"github.com/spf13/cobra"

	"github.com/phaseboot/phaseboot/internal/cli"
	"github.com/phaseboot/phaseboot/internal/p2p"
	"github.com/phaseboot/phaseboot/publisher"
	"github.com/phaseboot/phaseboot/signer"
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

// daemonFlags are the rest of what serve and bootstrap share.
type daemonFlags struct {
	limitFlags
	logFlags
	metrics string
}

func (f *daemonFlags) register(cmd *cobra.Command) {
	f.limitFlags.register(cmd)
	f.logFlags.register(cmd)
	cmd.Flags().StringVar(&f.metrics, "metrics", "", "`address` of a listener for operators with /metrics (Prometheus), /status and /healthz, like 127.0.0.1:9090; empty for none")
}

// oneOf refuses another word than the three that a flag takes.
func oneOf(flag, got, a, b, c string) error {
	if got == a || got == b || got == c {
		return nil
	}
	return cli.Usagef("%s %.40q: unknown; use %s, %s or %s", flag, got, a, b, c)
}

// hostPort refuses what is no address of a listener; "" is none.
func hostPort(flag, addr string) error {
	if _, _, err := net.SplitHostPort(addr); addr != "" && err != nil {
		return cli.Usagef("%s %.80q: write it as HOST:PORT or :PORT", flag, addr)
	}
	return nil
}

// ready prints the line that says that the daemon can be used, and tells systemd.
func ready(cmd *cobra.Command, systemd *notifier) func(publisher.Ready) error {
	return func(r publisher.Ready) error {
		if err := json.NewEncoder(cmd.OutOrStdout()).Encode(r); err != nil {
			return err
		}
		systemd.ready(cmd.Context())
		return nil
	}
}

func newServe() *cobra.Command {
	var opts publisher.ServeOptions
	var online onlineFlags
	var network networkFlags
	var daemon daemonFlags
	var ipns, dht, nat string
	cmd := &cobra.Command{
		Use:   "serve --store DIR --repo DIR --online-key KEY --ipns-key KEY",
		Short: "Serve the releases until stopped",
		Long: `serve answers for the blocks and the metadata over HTTP and over libp2p streams,
announces itself by mDNS and in the DHT, keeps the IPNS record fresh, and signs the
timestamp again before it expires. It picks up a new head by itself. When everything
listens it prints one JSON line with its addresses, and tells systemd where that is its
parent. SIGTERM stops it: requests under way have five seconds to finish.

The store is only read: several serve on one store and repository, each with an --identity
of its own, beside an add that runs.`,
		Example: `  phase-publish serve --store store --repo repo --online-key online.key --ipns-key ipns.key
  phase-publish serve --store store --repo repo --online-key online.key --ipns-key ipns.key \
    --http 192.0.2.7:80 --listen /ip4/192.0.2.7/tcp/4001 --mdns=false
  phase-publish serve --store store --repo repo --online-key online.key --ipns-key ipns.key \
    --rate 100Mbit --rate-per-peer 2MB --metrics 127.0.0.1:9090 --log json`,
		Args: cli.Args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			if opts.Network, err = network.parse(); err != nil {
				return err
			}
			if err := errors.Join(
				oneOf("--dht", dht, publisher.DHTPrivate, publisher.DHTPublic, publisher.DHTOff),
				oneOf("--nat", nat, publisher.NATOff, publisher.NATAuto, publisher.NATBehind),
				hostPort("--http", opts.HTTP), hostPort("--metrics", daemon.metrics),
			); err != nil {
				return err
			}
			if opts.Limits, err = daemon.limits(); err != nil {
				return err
			}
			if opts.Log, err = daemon.logger(cmd.ErrOrStderr()); err != nil {
				return err
			}
			opts.DHT, opts.NAT, opts.Metrics = dht, nat, daemon.metrics
			if err := signer.CheckExposed(online.key, online.passFile, ipns); err != nil {
				return err
			}
			if opts.Online, err = online.load(cmd.Context()); err != nil {
				return err
			}
			if opts.IPNS, err = loadIPNS(cmd.Context(), ipns, online.passFile); err != nil {
				return err
			}
			systemd := newNotifier(opts.Log)
			defer systemd.stop()
			opts.Ready = ready(cmd, systemd)
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
	daemon.register(cmd)
	daemon.registerRates(cmd)
	cmd.Flags().StringVar(&dht, "dht", publisher.DHTPrivate, "private, public or off")
	cmd.Flags().StringVar(&nat, "nat", publisher.NATOff, "behind a router: off, auto (map ports, find out, use relays and punch holes), or behind (the same without finding out)")
	cmd.Flags().BoolVar(&opts.MDNS, "mdns", true, "announce on the local network")
	cmd.Flags().BoolVar(&opts.IgnoreClock, "ignore-clock", false, "sign although the clock contradicts the dates of what is published")
	require(cmd, "store", "repo", "ipns-key")
	return cmd
}
