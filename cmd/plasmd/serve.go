package main

import (
	"cmp"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/spf13/cobra"

	"github.com/phaseboot/phaseboot/internal/cli"
	"github.com/phaseboot/phaseboot/internal/limit"
	"github.com/phaseboot/phaseboot/internal/p2p"
	"github.com/phaseboot/phaseboot/internal/systemd"
	"github.com/phaseboot/phaseboot/manifest"
	"github.com/phaseboot/phaseboot/modes"
	"github.com/phaseboot/phaseboot/plasm"
	"github.com/phaseboot/phaseboot/plasm/api"
	"github.com/phaseboot/phaseboot/plasm/daemon"
	"github.com/phaseboot/phaseboot/plasm/queue"
)

// Defaults of plasmd serve.
const (
	stateDir     = "/var/lib/plasm"
	privateState = "/run/plasm/state"
	port         = "4002"

	maxReport     = 4 << 20
	maxHTTPHeader = 16 << 10
	idleTimeout   = 3 * time.Minute
	socketConns   = 256 // open connections of the socket
	peerConns     = 64  // and of the network
	peerConnsOfIP = 16
	maxSocketPath = 107 // bytes (unix(7))
	closeGrace    = 5 * time.Second
	provideEvery  = 20 * time.Minute
)

type serveFlags struct {
	release, jobDir, key, state, socket, mode, bootReport, root, metrics string
	listen, groups                                                       []string
	private                                                              bool
	workers                                                              int
	grace                                                                time.Duration
	sources                                                              sourceFlags
	logging                                                              cli.LogFlags
}

func serveCommand() *cobra.Command {
	var f serveFlags
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "Accept jobs, run them side by side, and return receipts",
		Long: `Serve takes jobs on a unix socket of this machine, and over libp2p from those whom the
release names as submitters, runs them and stores their output and receipts. It speaks
HTTP: GET /plasm/v1/openapi.json describes the requests.

Whoever may connect to the socket may submit: the user of plasmd and members of its group
(mode 0660). Over the network a job is an order that a submitter has signed. serve listens
there with --listen, or if the boot mode (--mode) announces the machine; and only if
--release is given and names submitters.

Without --key a machine has another key after each start: receipts of earlier jobs are then
refused. 'phase-sign key generate --no-passphrase --out FILE' makes one that lasts.

A job may name a module by its CID. The release is asked for it, then the cache, and then the
sources that a boot would ask: those of --root, of the boot mode, of --mirror and --peer, and
mirrors that sent something during the boot (--boot-report). Every byte is checked.

A job that was accepted gets one outcome and one receipt, also if plasmd or the machine is
stopped: a job that ran then ends as "interrupted", one that waited runs later. With
--private, or in a mode without a cache, nothing is written to a disk. Otherwise the code
that the compiler makes is stored in the state folder too (at most 256M).

When it is ready, it prints one JSON line with its addresses, and notifies systemd. It
takes the socket of a systemd socket unit. SIGTERM stops it: running jobs may end within
--grace.`,
		Example: `  plasmd serve --state ~/.local/state/plasm --socket /tmp/plasmd.sock
  plasmd serve --key /etc/plasm/machine --metrics 127.0.0.1:9091
  plasmd serve --release /run/phase/release.json --key /run/phase/machine.key --listen /ip4/0.0.0.0/tcp/4002`,
		Args: cli.Args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error { return f.run(cmd) },
	}
	flags := cmd.Flags()
	flags.StringVar(&f.release, "release", "", "verified release as JSON; its artifacts are in the same folder")
	flags.StringVar(&f.jobDir, "job-dir", "", "folder with the artifacts, named by their roles (default: the folder of --release)")
	flags.StringVar(&f.key, "key", "", "key of the machine, Ed25519 in PKCS #8 PEM: it signs receipts and is the peer's key (default: a new one for this run)")
	flags.StringVar(&f.state, "state", "", "`folder` of the accepted jobs (default "+stateDir+", in private mode "+privateState+")")
	flags.StringVar(&f.socket, "socket", api.DefaultSocket, "unix socket to listen on, unless systemd passes one")
	flags.StringArrayVar(&f.listen, "listen", nil, "libp2p `multiaddr` to listen on for signed orders (repeatable)")
	flags.StringArrayVar(&f.groups, "group", nil, "`name` of a group of machines that this one belongs to (repeatable)")
	flags.StringVar(&f.mode, "mode", "", "boot `mode`, by name or as a file: if it announces, listen on TCP port "+port+" for signed orders")
	flags.StringVar(&f.bootReport, "boot-report", "", "report of the boot: receipts name its sha256")
	flags.StringVar(&f.root, "root", "", "root.json of the repository: machines are found in its DHT, and receipts name its version")
	flags.BoolVar(&f.private, "private", false, "write nothing to a disk: --state must be in memory")
	flags.IntVar(&f.workers, "workers", 2, "jobs that run at once")
	flags.DurationVar(&f.grace, "grace", 5*time.Second, "time for running jobs to end when plasmd is stopped")
	flags.StringVar(&f.metrics, "metrics", "", "`address` of a listener for operators with /metrics (Prometheus), such as 127.0.0.1:9091; empty for none")
	f.sources.register(flags)
	f.logging.Register(flags)
	return cmd
}

// A server is one run of plasmd serve.
type server struct {
	serveFlags
	log        *slog.Logger
	private    bool // nothing is written to a disk
	announce   bool // the boot mode announces the machine
	bootMode   modes.Mode
	report     []byte // of the boot
	machineKey ed25519.PrivateKey
	repository *manifest.Root // nil without --root
	opts       daemon.Options
	queue      *queue.Queue
	daemon     *daemon.Daemon
	node       *p2p.Node // nil off the network
	conns      limit.Conns
}

func (f serveFlags) run(cmd *cobra.Command) error {
	log, err := f.logging.Logger(cmd.ErrOrStderr())
	if err != nil {
		return err
	}
	s := &server{serveFlags: f, log: log, conns: limit.Conns{Max: socketConns}}
	if err := s.read(cmd); err != nil {
		return err
	}
	if s.queue, err = queue.Open(s.statePath(), queue.Options{Memory: s.private, Log: log}); err != nil {
		return err
	}
	defer s.queue.Close()
	s.opts.Queue = s.queue
	local, err := s.listenLocal()
	if err != nil {
		return err
	}
	defer local.Close()
	var metrics net.Listener
	if f.metrics != "" {
		if metrics, err = p2p.ListenTCP("--metrics", f.metrics); err != nil {
			return err
		}
		defer metrics.Close()
	}
	if s.daemon, err = daemon.New(s.opts); err != nil {
		return err
	}
	if err := s.join(cmd.Context()); err != nil {
		return err
	}
	if s.node != nil {
		defer s.node.Close()
	}
	return s.serve(cmd, local, metrics)
}

// read reads the files of the flags.
func (s *server) read(cmd *cobra.Command) error {
	if s.workers < 1 || s.workers > 256 {
		return cli.Usagef("--workers %d: give 1 to 256", s.workers)
	}
	if _, err := p2p.ParseAddrs(s.listen); err != nil {
		return cli.Usagef("--listen: %v", err)
	}
	if len(s.socket) > maxSocketPath {
		return cli.Usagef("socket %s: %d bytes, and the path of a socket has at most %d; name a shorter one with --socket", s.socket, len(s.socket), maxSocketPath)
	}
	s.opts = daemon.Options{
		Groups: s.groups, Workers: s.workers, Grace: s.grace,
		ExitCode: cli.Code, Version: cli.Version(), Log: s.log,
	}
	if err := s.readRelease(); err != nil {
		return err
	}
	key, err := readKey(s.key, "machine key", plasm.ParsePrivateKey)
	if err != nil {
		return err
	}
	if key == nil {
		s.log.Info("no --key: receipts are signed by a key made for this run, which identifies no machine; after a restart they are refused")
		_, key, _ = ed25519.GenerateKey(rand.Reader) // never fails
		s.opts.Ephemeral = true
	}
	s.machineKey, s.opts.Key = key, key
	if err := errors.Join(s.readReport(), s.readMode()); err != nil {
		return err
	}
	s.opts.Private, s.opts.Engine = s.private, s.engine(cmd.Root().Name()).Run
	return s.readSources()
}

// engine returns what runs jobs. Only a daemon that may write to a disk stores compiled code.
func (s *server) engine(name string) plasm.Process {
	p := plasm.Process{Args: []string{name, engineVerb}, Cgroups: cgroups(s.log)}
	if !s.private {
		p.Code = plasm.NewCodeCache(filepath.Join(s.statePath(), "code"), s.log)
	}
	return p
}

func (s *server) readRelease() error {
	if s.root != "" {
		data, err := cli.ReadMetadata(s.root, "root", manifest.KindRoot, "the root.json of the repository")
		if err != nil {
			return err
		}
		if s.repository, err = manifest.ParseRoot(data); err != nil {
			return fmt.Errorf("root %s: %w", s.root, err)
		}
		s.opts.Root = s.repository.Version()
	}
	if s.release == "" {
		if s.jobDir != "" {
			return cli.Usagef("--job-dir %s: needs --release", s.jobDir)
		}
		return nil
	}
	data, err := cli.ReadInput(s.release, "release", maxRelease)
	if err != nil {
		return err
	}
	rel, err := plasm.ParseRelease(data)
	if err != nil {
		return fmt.Errorf("%s: %w", s.release, err)
	}
	s.opts.Release, s.opts.Dir = &rel, cmp.Or(s.jobDir, filepath.Dir(s.release))
	return nil
}

// readReport takes the digest of the boot report.
func (s *server) readReport() error {
	if s.bootReport == "" {
		return nil
	}
	data, err := cli.ReadInput(s.bootReport, "boot report", maxReport)
	if err != nil {
		return err
	}
	digest := sha256.Sum256(data)
	s.report, s.opts.Report = data, hex.EncodeToString(digest[:])
	return nil
}

// readMode finds out whether the machine is announced, and whether it may write to a disk. A file is asked and not
// its name, because an image may have another mode of that name.
func (s *server) readMode() error {
	s.private = s.serveFlags.private
	if s.mode == "" {
		return nil
	}
	var m modes.Mode
	var err error
	if strings.HasSuffix(s.mode, ".json") {
		var data []byte
		if data, err = cli.ReadInput(s.mode, "boot mode", modes.MaxFile); err != nil {
			return err
		}
		m, err = modes.Parse(data)
	} else {
		m, err = modes.Load(s.mode)
	}
	if err != nil {
		return cli.Usagef("--mode: %v", err)
	}
	s.bootMode, s.announce = m, m.Announce && m.Proxy == ""
	s.private = s.private || m.Cache == "off"
	return nil
}

func (s *server) statePath() string {
	if s.state == "" && s.private {
		return privateState
	}
	return cmp.Or(s.state, stateDir)
}

// listenLocal returns the socket of systemd, or makes that of --socket. One that a dead process left is
// replaced.
func (s *server) listenLocal() (net.Listener, error) {
	if l, err := systemd.Listener(); l != nil || err != nil {
		return l, err
	}
	if err := os.MkdirAll(filepath.Dir(s.socket), 0o755); err != nil {
		return nil, fmt.Errorf("socket %s: %w; name another with --socket", s.socket, err)
	}
	if info, err := os.Lstat(s.socket); err == nil && info.Mode().Type() != fs.ModeSocket {
		return nil, fmt.Errorf("socket %s: another file has this name; remove it, or name another with --socket", s.socket)
	}
	if conn, err := net.DialTimeout("unix", s.socket, time.Second); err == nil {
		conn.Close()
		return nil, fmt.Errorf("socket %s: another process listens there; stop it, or name another with --socket", s.socket)
	} else if errors.Is(err, syscall.ECONNREFUSED) {
		os.Remove(s.socket)
	}
	was := syscall.Umask(0o117) // the file has its mode from the first moment
	l, err := net.Listen("unix", s.socket)
	syscall.Umask(was)
	if err != nil {
		return nil, fmt.Errorf("socket %s: %w; name another with --socket", s.socket, err)
	}
	return l, nil
}

// join starts the libp2p host, if the release names submitters and a flag or the boot mode asks for it.
func (s *server) join(ctx context.Context) error {
	texts := s.listen
	if len(texts) == 0 && s.announce {
		texts = []string{"/ip4/0.0.0.0/tcp/" + port, "/ip6/::/tcp/" + port}
	}
	if len(texts) == 0 {
		return nil
	}
	if s.opts.Release == nil || len(s.opts.Release.Submitters) == 0 {
		level, cause := slog.LevelInfo, "the release names no submitters; 'phase-sign release --submitter' names one"
		if s.opts.Release == nil {
			cause = "no release, which names the submitters; --release reads one"
		}
		if len(s.listen) > 0 {
			level = slog.LevelWarn // somebody has asked for it
		}
		s.log.Log(ctx, level, "not on the network: "+cause)
		return nil
	}
	listen, err := p2p.ParseAddrs(texts)
	if err != nil {
		return cli.Usagef("--listen: %v", err)
	}
	identity, err := crypto.UnmarshalEd25519PrivateKey(s.machineKey)
	if err != nil {
		return err
	}
	opts := p2p.Options{
		Identity: identity, Listen: listen, MDNS: s.announce, Log: s.log, MaxConns: peerConns, MaxConnsPerIP: peerConnsOfIP,
	}
	if s.repository != nil && s.announce {
		if d := s.repository.Discovery(); d.DHTPrefix != "" {
			opts.DHT, opts.Prefix = p2p.DHTClient, d.DHTPrefix
			if opts.Bootstrap, err = p2p.ParsePeers(slices.Concat(s.sources.bootstrap, d.Bootstrap)); err != nil {
				return fmt.Errorf("root %s: bootstrap: %w", s.root, err)
			}
		}
	}
	if s.node, err = p2p.New(ctx, opts); err != nil {
		return err
	}
	if err := s.node.Serve(s.daemon.Network()); err != nil {
		return errors.Join(err, s.node.Close())
	}
	s.daemon.SetPeer(s.node.ID().String(), func() []string { return s.node.Endpoints(nil).Listen })
	if s.node.InDHT() {
		go s.provide(ctx)
	}
	return nil
}

// provide announces in the DHT that this machine takes jobs.
func (s *server) provide(ctx context.Context) {
	for ctx.Err() == nil {
		if err := s.node.Provide(ctx, api.Rendezvous(s.opts.Release.Repository)); err != nil && ctx.Err() == nil {
			s.log.Warn("DHT: not announced", "cause", err)
		}
		select {
		case <-ctx.Done():
		case <-time.After(provideEvery):
		}
	}
}

// serve runs jobs until the command is interrupted.
func (s *server) serve(cmd *cobra.Command, local, metrics net.Listener) error {
	ctx := cmd.Context()
	web := s.conns.Server(s.daemon.Local(), maxHTTPHeader, idleTimeout, s.log)
	failed := make(chan error, 2)
	go func() { failed <- web.Serve(s.conns.Listener(local)) }()
	if metrics != nil {
		mux := http.NewServeMux()
		mux.Handle("GET "+api.MetricsPath, s.daemon.Metrics())
		figures := s.conns.Server(mux, maxHTTPHeader, idleTimeout, s.log)
		go func() { failed <- figures.Serve(metrics) }()
		defer figures.Close()
	}
	running, stop := context.WithCancel(ctx)
	defer stop()
	ended := make(chan error, 1)
	go func() { ended <- s.daemon.Run(running) }()

	notifier := systemd.NewNotifier(s.log)
	defer notifier.Stop()
	if err := s.ready(cmd, local, metrics); err != nil {
		return err
	}
	notifier.Ready(running)
	var err error
	select {
	case <-ctx.Done():
	case err = <-failed:
	}
	s.log.Info("stopping")
	stop()
	if runErr := <-ended; err == nil {
		err = runErr
	}
	// Clients see the outcomes before their connections end.
	closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeGrace)
	defer cancel()
	if s.node != nil {
		_ = s.node.Drain(closing) // those that are still open are closed
	}
	if web.Shutdown(closing) != nil {
		web.Close()
	}
	s.log.Info("stopped")
	return err
}

// ready prints the addresses of the daemon.
func (s *server) ready(cmd *cobra.Command, local, metrics net.Listener) error {
	line := struct {
		Socket  string   `json:"socket"`
		Machine string   `json:"machine"`
		Peer    string   `json:"peer,omitempty"`
		Listen  []string `json:"listen,omitempty"`
		Metrics []string `json:"metrics,omitempty"`
	}{Socket: local.Addr().String(), Machine: hex.EncodeToString(s.machineKey.Public().(ed25519.PublicKey)), Metrics: p2p.Origins(metrics)}
	if s.node != nil {
		line.Peer, line.Listen = s.node.ID().String(), s.node.Endpoints(nil).Listen
	}
	return json.NewEncoder(cmd.OutOrStdout()).Encode(line)
}
