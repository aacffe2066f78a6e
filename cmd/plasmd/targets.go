package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/spf13/cobra"

	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/internal/cli"
	"github.com/phaseboot/phaseboot/internal/p2p"
	"github.com/phaseboot/phaseboot/internal/refusal"
	"github.com/phaseboot/phaseboot/manifest"
	"github.com/phaseboot/phaseboot/plasm/api"
	"github.com/phaseboot/phaseboot/plasm/client"
	"github.com/phaseboot/phaseboot/signer/key"
)

const (
	maxMachines   = 1 << 20 // bytes of the file of --machines
	defaultSearch = 5 * time.Second
)

// targetFlags say which machines a verb speaks to, and as whom.
type targetFlags struct {
	socket        string
	machines      []string
	file          string
	all           bool
	count         int // only of submit
	root          string
	bootstrap     []string
	search        time.Duration
	key, passFile string
}

func (f *targetFlags) register(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringVar(&f.socket, "socket", api.DefaultSocket, "unix socket of the daemon of this machine")
	flags.StringArrayVar(&f.machines, "machine", nil, "multiaddr with /p2p/ID, or peer ID, of another machine; may be repeated")
	flags.StringVar(&f.file, "machines", "", "file with one --machine a line; # begins a comment")
	flags.BoolVar(&f.all, "all", false, "all machines that are found by mDNS, and with --root by the DHT")
	flags.StringVar(&f.root, "root", "", "root.json of the repository: only its machines count, and its DHT is searched")
	flags.StringArrayVar(&f.bootstrap, "bootstrap", nil, "bootstrap node of the DHT, a multiaddr with /p2p/ID; may be repeated (default: those of --root)")
	flags.DurationVar(&f.search, "search", defaultSearch, "how long machines are looked for")
	flags.StringVar(&f.key, "key", "", "key of a submitter: PEM file, ssh-agent:SHA256:… or KMS URI; a PEM file also identifies this client to machines")
	flags.StringVar(&f.passFile, "passphrase-file", "", "read the passphrase of --key from the first line of this file")
	cmd.MarkFlagsMutuallyExclusive("socket", "machine")
	cmd.MarkFlagsMutuallyExclusive("socket", "machines")
	cmd.MarkFlagsMutuallyExclusive("socket", "all")
}

// remote reports whether the flags name other machines than this one.
func (f *targetFlags) remote() bool {
	return len(f.machines) > 0 || f.file != "" || f.all || f.count != 0
}

// targets are the machines of a verb, in order.
type targets struct {
	machines []client.Machine
	flags    *targetFlags
	network  *client.Network // nil for the socket
}

func (t targets) close() {
	if t.network != nil {
		_ = t.network.Close() // the answers are there
	}
}

// check checks the flags and reads the files that they name, before anything is dialled.
func (f *targetFlags) check(ctx context.Context) (client.Choice, client.Options, *key.Key, error) {
	choice := client.Choice{All: f.all, Count: f.count, Search: f.search}
	var opts client.Options
	if f.count < 0 {
		return choice, opts, nil, cli.Usagef("--count %d: must be positive", f.count)
	}
	if f.search <= 0 {
		return choice, opts, nil, cli.Usagef("--search %s: must be positive", f.search)
	}
	if len(f.bootstrap) > 0 && f.root == "" {
		return choice, opts, nil, cli.Usagef("--bootstrap: needs --root, which names the DHT")
	}
	var err error
	if choice.Named, err = f.named(); err != nil {
		return choice, opts, nil, err
	}
	if opts, err = f.repository(); err != nil {
		return choice, opts, nil, err
	}
	opts.Find = f.all || f.count > 0
	for _, info := range choice.Named {
		opts.Find = opts.Find || len(info.Addrs) == 0
	}
	signing, err := f.loadKey(ctx)
	if err == nil && signing != nil {
		opts.Identity, _ = signing.Private() // a key in an agent or a KMS has none: a new identity is made
	}
	return choice, opts, signing, err
}

// loadKey opens the key of --key, nil without one.
func (f *targetFlags) loadKey(ctx context.Context) (*key.Key, error) {
	if f.key == "" {
		return nil, nil
	}
	if err := key.CheckExposed(f.key, f.passFile); err != nil {
		note("%v", err)
	}
	k, err := key.Load(ctx, f.key, key.Passphrases(f.passFile))
	if err != nil {
		return nil, err
	}
	return &k, nil
}

// named returns the machines of --machine and --machines.
func (f *targetFlags) named() ([]peer.AddrInfo, error) {
	texts := f.machines
	if f.file != "" {
		data, err := cli.ReadInput(f.file, "machines", maxMachines)
		if err != nil {
			return nil, err
		}
		before := len(texts)
		for text := range strings.Lines(string(data)) {
			line, _, _ := strings.Cut(text, "#")
			if line = strings.TrimSpace(line); line != "" {
				texts = append(texts, line)
			}
		}
		if len(texts) == before {
			return nil, cli.Usagef("machines %s: names no machine; write one a line", f.file)
		}
	}
	var out []peer.AddrInfo
	at := map[peer.ID]int{}
	for _, text := range texts {
		info, err := client.ParseMachine(text)
		if err != nil {
			return nil, err
		}
		if i, again := at[info.ID]; again {
			out[i].Addrs = append(out[i].Addrs, info.Addrs...)
			continue
		}
		at[info.ID] = len(out)
		out = append(out, info)
	}
	return out, nil
}

// repository returns where machines of the repository of --root are found.
func (f *targetFlags) repository() (client.Options, error) {
	if f.root == "" {
		return client.Options{}, nil
	}
	data, err := cli.ReadMetadata(f.root, "root", manifest.KindRoot, "the root.json of the repository")
	if err != nil {
		return client.Options{}, err
	}
	root, err := manifest.ParseRoot(data)
	if err != nil {
		return client.Options{}, fmt.Errorf("--root %s: %w; name the root.json of the repository", f.root, err)
	}
	d := root.Discovery()
	known := d.Bootstrap
	if len(f.bootstrap) > 0 {
		known = f.bootstrap
	}
	bootstrap, err := p2p.ParsePeers(known)
	if err != nil {
		return client.Options{}, cli.Usagef("--bootstrap: %v", err)
	}
	return client.Options{Repository: root.Repository(), Prefix: d.DHTPrefix, Bootstrap: bootstrap}, nil
}

// open dials the machines. The caller closes the targets.
func (f *targetFlags) open(ctx context.Context) (targets, error) {
	choice, opts, _, err := f.check(ctx)
	if err != nil {
		return targets{}, err
	}
	return f.dial(ctx, choice, opts)
}

func (f *targetFlags) dial(ctx context.Context, choice client.Choice, opts client.Options) (targets, error) {
	t := targets{flags: f}
	if !f.remote() {
		m := client.Local(ctx, f.socket)
		if m.Err != nil {
			return t, named(m, m.Err)
		}
		t.machines = []client.Machine{m}
		return t, nil
	}
	var err error
	if t.network, err = client.Join(ctx, opts); err != nil {
		return t, err
	}
	if t.machines, err = t.network.Machines(ctx, choice); err != nil {
		t.close()
		return t, err
	}
	if len(t.machines) == 0 {
		t.close()
		return t, refusal.New(cas.ErrUnreachable, "no machine found in %s; is plasmd running there, and on this network? --root searches the DHT too, --search longer", f.search)
	}
	return t, nil
}

// single reports whether there is one machine, whose errors are those of the verb.
func (t targets) single() bool { return len(t.machines) == 1 }

// named puts the name of a machine before an error.
func named(m client.Machine, err error) error {
	if err == nil || errors.Is(err, context.Canceled) {
		return err
	}
	return fmt.Errorf("%s: %w", m.Name, err)
}

// each calls do for each machine that was reached, at the same time, and returns an error for each that failed or was
// not reached, at its position.
func (t targets) each(ctx context.Context, do func(i int, m client.Machine) error) []error {
	errs := make([]error, len(t.machines))
	inParallel(len(t.machines), func(i int) {
		m := t.machines[i]
		if errs[i] = m.Err; m.Err == nil {
			errs[i] = do(i, m)
		}
		errs[i] = named(m, errs[i])
	})
	return errs
}

// argument returns the flag that names a machine, with a blank before it, for a command that is shown.
func (t targets) argument(m client.Machine) string {
	if t.network == nil {
		if t.flags.socket == api.DefaultSocket {
			return ""
		}
		return " --socket " + t.flags.socket
	}
	if addrs, err := peer.AddrInfoToP2pAddrs(&m.Info); err == nil && len(addrs) > 0 {
		return " --machine " + addrs[0].String()
	}
	return " --machine " + m.Info.ID.String()
}
