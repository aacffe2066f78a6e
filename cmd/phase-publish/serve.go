package main

import (
	"encoding/json"
	"errors"
	"net"

	"github.com/spf13/cobra"

	"github.com/phaseboot/phaseboot/internal/cli"
	"github.com/phaseboot/phaseboot/internal/p2p"
	"github.com/phaseboot/phaseboot/internal/systemd"
	"github.com/phaseboot/phaseboot/publisher"
	"github.com/phaseboot/phaseboot/signer/key"
)

// networkFlags are the network flags of serve and bootstrap.
type networkFlags struct{ listen, announce, bootstrap []string }

func (f *networkFlags) register(cmd *cobra.Command) {
	f.listen = []string{"/ip4/0.0.0.0/tcp/4001", "/ip4/0.0.0.0/udp/4001/quic-v1", "/ip6/::/tcp/4001", "/ip6/::/udp/4001/quic-v1"}
	cmd.Flags().StringArrayVar(&f.listen, "listen", f.listen, "libp2p `multiaddr` to listen on (repeatable)")
	cmd.Flags().StringArrayVar(&f.announce, "announce", nil, "`multiaddr` to announce in addition to the own ones, for a publisher behind a router (repeatable)")
	cmd.Flags().StringArrayVar(&f.bootstrap, "bootstrap", nil, "`multiaddr` with /p2p/ID of a DHT node, in addition to those in root.json (repeatable)")
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

// daemonFlags are the flags of serve and bootstrap.
type daemonFlags struct {
	networkFlags
	limitFlags
	cli.LogFlags
	identity, metrics string
}

func (f *daemonFlags) register(cmd *cobra.Command) {
	f.networkFlags.register(cmd)
	f.limitFlags.register(cmd)
	f.LogFlags.Register(cmd.Flags())
	cmd.Flags().StringVar(&f.metrics, "metrics", "", "`address` of a listener for operators with /metrics (Prometheus), /status and /healthz, such as 127.0.0.1:9090; empty for none")
}

func (f *daemonFlags) parse(cmd *cobra.Command) (o publisher.DaemonOptions, err error) {
	o.Identity, o.Metrics = f.identity, f.metrics
	if o.Network, err = f.networkFlags.parse(); err != nil {
		return o, err
	}
	if err := hostPort("--metrics", f.metrics); err != nil {
		return o, err
	}
	if o.Limits, err = f.limits(); err != nil {
		return o, err
	}
	o.Log, err = f.Logger(cmd.ErrOrStderr())
	return o, err
}

// oneOf refuses a value that is not one of three.
func oneOf(flag, got, a, b, c string) error {
	if got == a || got == b || got == c {
		return nil
	}
	return cli.Usagef("%s %.40q: unknown; use %s, %s or %s", flag, got, a, b, c)
}

// hostPort refuses a value that is not an address of a listener; "" is no listener.
func hostPort(flag, addr string) error {
	if _, _, err := net.SplitHostPort(addr); addr != "" && err != nil {
		return cli.Usagef("%s %.80q: write it as HOST:PORT or :PORT", flag, addr)
	}
	return nil
}

// ready prints the line with the addresses of the daemon, and notifies systemd.
func ready(cmd *cobra.Command, notifier *systemd.Notifier) func(publisher.Ready) error {
	return func(r publisher.Ready) error {
		if err := json.NewEncoder(cmd.OutOrStdout()).Encode(r); err != nil {
			return err
		}
		notifier.Ready(cmd.Context())
		return nil
	}
}

func newServe() *cobra.Command {
	var opts publisher.ServeOptions
	var online onlineFlags
	var daemon daemonFlags
	var ipns, dht, nat string
	var cacheSize byteSize
	cmd := &cobra.Command{
		Use:   "serve --store DIR {--repo DIR --online-key KEY --ipns-key KEY | --replica}",
		Short: "Serve the releases until stopped",
		Long: `serve answers requests for blocks and metadata over HTTP and over libp2p streams, announces
itself by mDNS and in the DHT, and signs the IPNS record and the timestamp again before
they expire. It serves a new release as soon as add has published it. When everything
listens, it prints one JSON line with its addresses, and notifies systemd if systemd started
it. SIGTERM stops it: open requests have five seconds to finish.

Of the store, serve changes the boot reports alone: several may serve one store and repository,
each with its own --identity, while add runs.

With a store in an object store, serve also writes the metadata and the IPNS record there. Any
number of serve --replica read them and the blocks: they need no repository, no key and no disk.`,
		Example: `  phase-publish serve --store store --repo repo --online-key keys/online --ipns-key keys/ipns
  phase-publish serve --store store --repo repo --online-key keys/online --ipns-key keys/ipns \
    --http 192.0.2.7:80 --listen /ip4/192.0.2.7/tcp/4001 --mdns=false
  phase-publish serve --store store --repo repo --online-key keys/online --ipns-key keys/ipns \
    --rate 100Mbit --rate-per-peer 2MB --metrics 127.0.0.1:9090 --log json
  phase-publish serve --store store --repo repo --online-key keys/online --ipns-key keys/ipns --netboot uki-x86_64.efi
  phase-publish serve --store store --repo repo --online-key keys/online --ipns-key keys/ipns --admin 127.0.0.1:9080
  phase-publish serve --store 's3://boot/fleet?endpoint=https://s3.example' --replica --cache /var/cache/phase --cache-size 10GiB`,
		Args: cli.Args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			if opts.DaemonOptions, err = daemon.parse(cmd); err != nil {
				return err
			}
			if err := errors.Join(
				oneOf("--dht", dht, publisher.DHTPrivate, publisher.DHTPublic, publisher.DHTOff),
				oneOf("--nat", nat, publisher.NATOff, publisher.NATAuto, publisher.NATBehind), hostPort("--http", opts.HTTP),
			); err != nil {
				return err
			}
			if opts.Netboot != "" && opts.HTTP == "" {
				return cli.Usagef("--netboot: needs the plain HTTP listener; name an address with --http")
			}
			if err := opts.Admin.Check(); err != nil {
				return err
			}
			opts.DHT, opts.NAT = dht, nat
			opts.Cache.Size = int64(cacheSize)
			if opts.Replica {
				notifier := systemd.NewNotifier(opts.Log)
				defer notifier.Stop()
				opts.Ready = ready(cmd, notifier)
				return publisher.Serve(cmd.Context(), opts)
			}
			if err := key.CheckExposed(online.key, online.passFile, ipns, opts.Admin.Token, opts.Admin.Key); err != nil {
				return err
			}
			if opts.Online, err = online.load(cmd.Context()); err != nil {
				return err
			}
			if opts.IPNS, err = loadIPNS(cmd.Context(), ipns, online.passFile); err != nil {
				return err
			}
			notifier := systemd.NewNotifier(opts.Log)
			defer notifier.Stop()
			opts.Ready = ready(cmd, notifier)
			return publisher.Serve(cmd.Context(), opts)
		},
	}
	cmd.Flags().StringVar(&opts.Store, "store", "", storeUsage)
	cmd.Flags().StringVar(&opts.Repo, "repo", "", "folder of the repository, made by phase-sign init")
	cmd.Flags().BoolVar(&opts.Replica, "replica", false, "serve what another publisher has put into an object store, its metadata too; without a repository and keys")
	online.flags(cmd)
	cmd.Flags().StringVar(&opts.Cache.Dir, "cache", "", "`folder` for what is read from an object store, made when missing (default: memory)")
	cmd.Flags().Var(&cacheSize, "cache-size", "bytes of that cache (default 64 MiB in memory, 4 GiB in a folder)")
	cmd.Flags().StringVar(&ipns, "ipns-key", "", "key of the IPNS name in root.json")
	cmd.Flags().StringVar(&daemon.identity, "identity", "", "file with the peer's key, made when missing (default STORE/peer.key; with an object store, a new key at each start)")
	cmd.Flags().StringVar(&opts.HTTP, "http", ":8080", "`address` of the plain HTTP listener, empty for none")
	cmd.Flags().StringVar(&opts.Netboot, "netboot", "", "EFI program of phase-image uki, or a `folder` with such files, to serve below /netboot/ to machines that boot without a stick")
	cmd.Flags().StringVar(&opts.Reports, "reports", "", "`file` of the boot reports of machines, made when missing, or off to take none (default STORE/reports.db; if it cannot be opened, and with an object store, none are taken)")
	adminFlags(cmd, &opts.Admin)
	daemon.register(cmd)
	daemon.registerRates(cmd)
	cmd.Flags().StringVar(&dht, "dht", publisher.DHTPrivate, "private, public or off")
	cmd.Flags().StringVar(&nat, "nat", publisher.NATOff, "for a publisher behind a router: off, auto (map ports; if other peers cannot dial this one, use relays and hole punching), or behind (the same without asking other peers)")
	cmd.Flags().BoolVar(&opts.MDNS, "mdns", true, "announce on the local network")
	cmd.Flags().BoolVar(&opts.IgnoreClock, "ignore-clock", false, "sign although the clock contradicts the dates of what is published")
	require(cmd, "store")
	for _, own := range []string{"repo", "online-key", "ipns-key"} {
		cmd.MarkFlagsOneRequired(own, "replica")
		cmd.MarkFlagsMutuallyExclusive(own, "replica")
	}
	return cmd
}
