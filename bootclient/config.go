package bootclient

import (
	"cmp"
	"context"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"time"

	"github.com/multiformats/go-multiaddr"

	"github.com/phaseboot/phaseboot/bootclient/cache"
	"github.com/phaseboot/phaseboot/bootclient/peers"
	"github.com/phaseboot/phaseboot/bootclient/report"
	"github.com/phaseboot/phaseboot/bootclient/share"
	"github.com/phaseboot/phaseboot/bootclient/timing"
	"github.com/phaseboot/phaseboot/cas/pack"
	"github.com/phaseboot/phaseboot/internal/bootargs"
	"github.com/phaseboot/phaseboot/manifest"
	"github.com/phaseboot/phaseboot/modes"
)

// Config says what to boot and where to look. Only Root decides about trust; all
// other fields are hints.
type Config struct {
	Root          []byte // root.json, the only trusted input
	Channel, Arch string
	Machine       manifest.Machine // decides which of the signed releases this machine takes
	Mode          modes.Mode
	Cache         string                // folder for blocks and saved metadata, "" for none
	LastGood      bool                  // a person asked for the last good release: nothing is searched, whatever Mode.Stale says
	StaleBy       string                // what has set Mode.Stale, "" for the mode itself
	CacheWanted   bool                  // a person named Cache: an unusable one is an error, and is not recreated
	Mirrors       []string              // base URLs of /ipfs/ and /ipns/: http, https, file
	Peers         []string              // multiaddrs with /p2p/ID
	Bootstrap     []string              // multiaddrs of DHT nodes, which are also sources
	Share         bool                  // serve verified blocks during the fetch, if the mode announces
	HTTP          string                // host:port to serve at, "" for a free port
	Listen        []multiaddr.Multiaddr // addresses for peers, none for free ports
	Timeout       time.Duration         // of the search for a valid release; 0 is timing.DefaultTimeout, through Tor TorTimeout
	Patience      time.Duration         // without a block, before the fetch fails; 0 is timing.DefaultPatience
	Floor         time.Time             // earliest possible time (image build time)
	Now           func() time.Time
	ClockUnsure   bool // ignore the dates of https certificates: nothing has set this clock
	KernelArgs    bool // Mirrors, Peers and Bootstrap are arguments of the kernel command line: messages name those, not flags
	Log           *slog.Logger
	Report        *report.Report
	// Heard, if not nil, returns the mirrors that DHCP servers have named so far, and a channel that is
	// closed when there is another. Unlike a refused one of Mirrors, a refused one ends no search.
	Heard func() (mirrors []string, more <-chan struct{})
	// Avoid reports whether a release could not be booted; nil for none. The last good release is then one
	// of Blessed. If there is none, the release is tried again.
	Avoid func(manifest.Release) bool
	// Starts returns how often a release was started here since its target has last blessed a start, and whether it has
	// ever done so; nil if starts are not counted. After MaxTries, one of Blessed is booted in place of a release that was
	// never blessed.
	Starts  func(manifest.Release) (n int, blessed bool)
	Blessed []Blessed // the releases that have started here, the newest first
	// Proxy returns the proxy for a request to a mirror, as http.ProxyFromEnvironment does. A
	// proxy of the mode is preferred. Nil means no proxy. Peers are dialled directly.
	Proxy func(*http.Request) (*url.URL, error)
	// Ready, if not nil, is called with the machine's addresses when it begins to serve.
	Ready func(report.Ready)
	// Stay, if not nil, is called after Commit with what is served and where. A machine that
	// serves then continues until ctx ends, which is not an error.
	Stay func(report.Ready)
	// Progress, if not nil, is called from one goroutine with the verified and the total bytes
	// of the artifacts.
	Progress func(done, total int64)
	// Receivers, if not nil, is called before Commit and at the end with the addresses of the sources that may take
	// boot reports.
	Receivers func(peers.Receivers)
	// Stored, if not nil, is called before Commit. whole reports whether the cache has taken every block
	// of the release: not if it is read-only, full or damaged, or was unplugged.
	Stored func(whole bool)
	// Keep is a folder into which Run writes, before Commit, what Seed needs in addition to the
	// artifacts: a cache with metadata, IPNS record and inner nodes, without leaves. A machine
	// that does not serve writes nothing. "" for none.
	Keep string
	// Artifacts is a folder with kernel, initramfs, rootfs, job/NAME.wasm, from which Seed
	// serves the leaves that Cache lacks. "" for none.
	Artifacts string

	times      *timing.Table                                                    // nil: the usual ones
	interfaces func() ([]net.Interface, error)                                  // nil: net.Interfaces
	openPacks  func(context.Context, string, pack.Options) (*pack.Store, error) // nil: pack.OpenContext
}

// Check returns an error that wraps fs.ErrInvalid for the first hint that is not an address.
// Run itself skips such a hint and reports it: a mistake on a kernel command line does not
// stop a boot.
func (c Config) Check() error { return bootargs.CheckSources(c.Mirrors, c.Peers, c.Bootstrap) }

// complete sets the default of each field that was not set.
func (c Config) complete() Config {
	usual, timeout := &timing.Usual, timing.DefaultTimeout
	if c.Mode.Tor {
		usual, timeout = &timing.ThroughTor, timing.TorTimeout
	}
	c.Timeout = cmp.Or(max(c.Timeout, 0), timeout)
	c.Patience = cmp.Or(max(c.Patience, 0), timing.DefaultPatience)
	c.times = cmp.Or(c.times, usual)
	c.Log = cmp.Or(c.Log, slog.New(slog.DiscardHandler))
	c.Report = cmp.Or(c.Report, report.New(time.Now(), nil))
	if c.openPacks == nil {
		c.openPacks = pack.OpenContext
	}
	if c.interfaces == nil {
		c.interfaces = net.Interfaces
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Ready == nil {
		c.Ready = func(report.Ready) {}
	}
	if c.Receivers == nil {
		c.Receivers = func(peers.Receivers) {}
	}
	if c.Stored == nil {
		c.Stored = func(bool) {}
	}
	if c.Progress == nil {
		c.Progress = func(int64, int64) {}
	}
	if c.Mode.Cache == "off" {
		c.Cache = ""
	}
	return c
}

// mayShare reports whether this machine serves others. With a proxy it never does: the proxy
// hides the machine.
func (c Config) mayShare() bool { return c.Share && c.Mode.Announce && c.Mode.Proxy == "" }

func (c Config) cacheDir() cache.Dir { return cache.Dir(c.Cache) }

// policy returns the policy of the present time, with the saved state of the cache, read-only.
func (c Config) policy() manifest.Policy {
	p := manifest.Policy{Root: c.Root, Channel: c.Channel, Arch: c.Arch, Now: c.Now(), Floor: c.Floor, Machine: c.Machine, StaleSettings: c.Mode.Stale == "last-good"}
	if c.Cache != "" {
		p.State = manifest.OpenStateReadOnly(c.cacheDir().Trust())
	}
	return p
}

// addresses returns the addresses of the machine's own root, and before them those of the newest
// saved root: a repository may have moved since the image was made.
func (c Config) addresses(root *manifest.Root) manifest.Discovery {
	own := root.Discovery()
	if c.Cache == "" {
		return own
	}
	newest := manifest.OpenStateReadOnly(c.cacheDir().Trust()).NewestRoot(root).Discovery()
	newest.IPNS = union(newest.IPNS, own.IPNS)
	newest.HTTPS = union(newest.HTTPS, own.HTTPS)
	newest.Bootstrap = union(newest.Bootstrap, own.Bootstrap)
	if newest.DHTPrefix == "" {
		newest.DHTPrefix = own.DHTPrefix
	}
	return newest
}

func (c Config) discoveryOptions(trust manifest.Discovery) peers.Options {
	return peers.Options{
		Mode: c.Mode, Mirrors: c.Mirrors, Heard: c.Heard, Peers: c.Peers, Bootstrap: c.Bootstrap, Trust: trust,
		ClockUnsure: c.ClockUnsure, KernelArgs: c.KernelArgs, Proxy: c.Proxy, Timeout: c.Timeout, Patience: c.Patience,
		Times: c.times, Interfaces: c.interfaces, Log: c.Log, Report: c.Report,
	}
}

// discover starts the node of this machine, if one is needed, and the search for sources. serving says what
// the machine serves to others. Close the search before the node.
func (c Config) discover(ctx context.Context, trust manifest.Discovery, serving share.Options) (*share.Sharing, *peers.Discovery, error) {
	look := c.discoveryOptions(trust)
	node, needed := look.NodeOptions()
	serving.Log, serving.Report = c.Log, c.Report
	sharing, err := share.Start(ctx, node, needed, serving)
	if err != nil {
		return nil, nil, err
	}
	disc, err := peers.Discover(ctx, look, sharing.Node)
	if err != nil {
		sharing.Close()
		return nil, nil, err
	}
	return sharing, disc, nil
}

// cacheOptions says how the cache is opened.
func (c Config) cacheOptions() cache.Options {
	within := c.times.OpenCache
	if c.CacheWanted {
		within = c.times.OpenWanted
	}
	return cache.Options{Dir: c.cacheDir(), ReadOnly: c.Mode.Cache == "ro", Named: c.CacheWanted, Within: within, Log: c.Log, Report: c.Report, OpenPacks: c.openPacks}
}
