package peers

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/phaseboot/phaseboot/bootclient/report"
	"github.com/phaseboot/phaseboot/bootclient/timing"
	"github.com/phaseboot/phaseboot/internal/bootargs"
	"github.com/phaseboot/phaseboot/internal/gateway"
	"github.com/phaseboot/phaseboot/internal/p2p"
	"github.com/phaseboot/phaseboot/internal/refusal"
	"github.com/phaseboot/phaseboot/manifest"
	"github.com/phaseboot/phaseboot/modes"
)

// pointerBuffer is the number of pointers from the DHT that wait to be handled.
const pointerBuffer = 16

// Options say where sources are looked for.
type Options struct {
	Mode        modes.Mode
	Mirrors     []string           // hints
	Peers       []string           // hints
	Bootstrap   []string           // hints
	Trust       manifest.Discovery // addresses of root.json
	ClockUnsure bool               // ignore the dates of https certificates
	Proxy       func(*http.Request) (*url.URL, error)
	Timeout     time.Duration // of the search
	Patience    time.Duration // of the fetch
	Times       *timing.Table
	Interfaces  func() ([]net.Interface, error)
	KernelArgs  bool // messages name arguments of the kernel command line, not flags
	Log         *slog.Logger
	Report      *report.Report
	// Heard, if not nil, returns the mirrors that DHCP servers have named so far, and a channel that is
	// closed when there is another.
	Heard func() (mirrors []string, more <-chan struct{})
}

// Argument returns how a person sets what name is, such as a mirror: --mirror, or phase.mirror= on a machine, which
// has no flags.
func (o Options) Argument(name string) string {
	if o.KernelArgs {
		return "phase." + name + "="
	}
	return "--" + name
}

// A Discovery finds sources by mirrors, hints, mDNS and the DHT until it is closed. It also
// finds pointers in the DHT.
type Discovery struct {
	Options
	Sources  *Set
	Pointers chan Pointer // from the DHT
	Network  bool         // mDNS or the DHT may find more sources at any time
	Isolated bool         // no source can be reached, and none can be found

	ctx    context.Context
	cancel context.CancelFunc
	tasks  sync.WaitGroup

	mu       sync.Mutex
	statuses map[string]string // status of mDNS and the DHT
}

// Discover starts the ways of discovery that the mode and the hints allow. node is nil if
// NodeOptions says that none is needed.
func Discover(ctx context.Context, o Options, node *p2p.Node) (*Discovery, error) {
	web, err := o.mirrorHTTP()
	if err != nil {
		return nil, err
	}
	d := &Discovery{Options: o, Sources: newSet(web, node, o.Times), Pointers: make(chan Pointer, pointerBuffer), statuses: map[string]string{}}
	d.ctx, d.cancel = context.WithCancel(ctx)
	d.Isolated = d.noNetwork()
	d.addMirrors()
	d.addPeers()
	d.tasks.Go(func() { d.Sources.dialAll(d.ctx) })
	return d, nil
}

// mirrorHTTP returns the HTTP client for mirrors.
func (o Options) mirrorHTTP() (*http.Client, error) {
	client := gateway.NewHTTP(nil)
	base := client.Transport.(*http.Transport)
	var err error
	if base.Proxy, err = o.mirrorProxy(); err != nil {
		return nil, err
	}
	client.Transport = newDatesTransport(base, o.ClockUnsure, func(ignored error) {
		o.Report.Begin("clock").Done("%v", ignored)
	})
	return client, nil
}

// mirrorProxy returns the function that selects the proxy for a mirror: the mode's proxy, else
// that of the configuration. It is nil for no proxy.
func (o Options) mirrorProxy() (func(*http.Request) (*url.URL, error), error) {
	if o.Mode.Proxy == "" {
		return o.Proxy, nil
	}
	at, err := url.Parse(o.Mode.Proxy)
	if err != nil {
		return nil, refusal.Invalid("proxy %.200q: not a URL; correct the mode", bootargs.Redact(o.Mode.Proxy))
	}
	return http.ProxyURL(at), nil
}

// Close ends all searches and connections. It does not close the node.
func (d *Discovery) Close() {
	d.cancel()
	d.tasks.Wait()
	d.Sources.http.CloseIdleConnections()
	d.Sources.web.CloseIdleConnections()
}

func (d *Discovery) addMirrors() {
	for _, m := range d.Mirrors {
		if err := bootargs.CheckMirror(m); err != nil {
			d.Report.Refuse("command line", "mirror", err)
			continue
		}
		d.addMirror("command line", m, true)
	}
	if d.Mode.Uses("mirror") {
		for _, m := range d.Trust.HTTPS {
			d.addMirror("root.json", m, true)
		}
	}
	if d.Heard != nil {
		more := d.addHeard()
		d.tasks.Go(func() { d.followHeard(more) })
	}
}

// addHeard adds the mirrors that DHCP servers have named.
func (d *Discovery) addHeard() (more <-chan struct{}) {
	mirrors, more := d.Heard()
	for _, m := range mirrors {
		d.addMirror("DHCP", m, false)
	}
	return more
}

// followHeard adds those that DHCP servers name later: a lease may come after the search has begun.
func (d *Discovery) followHeard(more <-chan struct{}) {
	for {
		select {
		case <-more:
			more = d.addHeard()
		case <-d.ctx.Done():
			return
		}
	}
}

// addMirror adds a mirror, unless it is an onion service and this boot has no SOCKS5 proxy that could
// resolve its name. from says who named it.
func (d *Discovery) addMirror(from, mirror string, named bool) {
	if err := bootargs.CheckOnion([]string{mirror}, d.proxyOf(mirror), "use boot mode tor, or a SOCKS5 proxy"); err != nil {
		d.Report.Refuse(from, "mirror", err)
		return
	}
	d.Sources.addMirror(mirror, named)
}

// proxyOf returns the proxy for a mirror, nil for none.
func (d *Discovery) proxyOf(mirror string) *url.URL {
	proxy, err := d.mirrorProxy()
	to, parseErr := url.Parse(mirror)
	if err != nil || parseErr != nil || proxy == nil {
		return nil
	}
	at, err := proxy(&http.Request{URL: to})
	if err != nil {
		return nil
	}
	return at
}

// NodeOptions returns the options of the node that finds and dials peers. needed is false if the
// mode and the hints need none. A mode with a proxy has no node, because a node would not use
// the proxy.
func (o Options) NodeOptions() (opts p2p.Options, needed bool) {
	useDHT, useMDNS := o.Mode.Uses("dht"), o.Mode.Uses("mdns")
	enter := o.parsePeers(o.Bootstrap)
	opts = p2p.Options{MDNS: useMDNS, DHT: p2p.DHTOff, Log: o.Log}
	if useDHT && o.Trust.DHTPrefix != "" {
		opts.DHT, opts.Prefix = p2p.DHTClient, o.Trust.DHTPrefix
		opts.Bootstrap = append(enter, o.parsePeers(o.Trust.Bootstrap)...)
	}
	return opts, o.Mode.Proxy == "" && (useDHT || useMDNS || len(o.parsePeers(o.Peers))+len(enter) > 0)
}

// addPeers adds the named peers, and starts mDNS and the DHT.
func (d *Discovery) addPeers() {
	named, enter := d.parsePeers(d.Peers), d.parsePeers(d.Bootstrap)
	if d.Mode.Proxy != "" {
		for _, p := range append(named, enter...) {
			d.Report.Refuse("command line", "peer", fmt.Errorf("%s: not used: the proxy of mode %s is for mirrors only; name a mirror or another mode", p.ID, d.Mode.Name))
		}
		return
	}
	if d.Sources.Node == nil {
		return
	}
	for _, p := range named {
		d.Sources.addPeer(KindPeer, p)
	}
	for _, p := range enter {
		d.Sources.addPeer(KindBootstrap, p)
	}
	if d.Mode.Uses("mdns") {
		d.Network = true
		d.setStatus("mDNS", "no peers yet")
		d.tasks.Go(d.addAnnounced)
	}
	if d.Mode.Uses("dht") && d.Trust.DHTPrefix != "" {
		d.Network = true
		for _, name := range d.Trust.IPNS {
			d.tasks.Go(func() { d.searchPointer(name) })
		}
	}
}

func (o Options) parsePeers(addrs []string) []peer.AddrInfo {
	var out []peer.AddrInfo
	for _, a := range addrs {
		info, err := bootargs.ParsePeer(a)
		if err != nil {
			o.Report.Refuse("command line", "peer", err)
			continue
		}
		out = append(out, info)
	}
	return out
}

// addAnnounced adds the peers that mDNS finds.
func (d *Discovery) addAnnounced() {
	found := map[peer.ID]bool{}
	for {
		select {
		case p := <-d.Sources.Node.MDNSPeers():
			d.Sources.addPeer(KindMDNS, p)
			found[p.ID] = true
			d.setStatus("mDNS", report.Count(len(found), "peer"))
		case <-d.ctx.Done():
			return
		}
	}
}

// searchPointer looks up the newest record of a name in the DHT again and again, and adds the
// peers that provide the metadata directory.
func (d *Discovery) searchPointer(name string) {
	d.setStatus("DHT", "no peer has answered"+d.bootstrapHint())
	pause := timing.SearchPause
	for {
		rec, err := d.Sources.Node.GetIPNS(d.ctx, name)
		if err == nil {
			ptr := Pointer{Name: name, Record: rec}
			if ptr.Directory, ptr.Seq, err = p2p.CheckRecord(name, rec); err == nil {
				d.setStatus("DHT", fmt.Sprintf("pointer to %s", ptr.Directory))
				select {
				case d.Pointers <- ptr:
				default: // the release is chosen, or the next search finds it again
				}
				d.addProviders(ptr.Directory)
				pause = timing.SearchMaxPause
			}
		}
		if err != nil && d.ctx.Err() == nil {
			d.setStatus("DHT", strings.TrimPrefix(err.Error(), "DHT: "))
		}
		select {
		case <-time.After(pause):
			pause = min(2*pause, timing.SearchMaxPause)
		case <-d.ctx.Done():
			return
		}
	}
}

func (d *Discovery) bootstrapHint() string {
	if len(d.Bootstrap)+len(d.Trust.Bootstrap) == 0 {
		return fmt.Sprintf(" (no bootstrap node is known; name one with %s)", d.Argument("bootstrap"))
	}
	return ""
}

// addProviders adds the peers that provide c.
func (d *Discovery) addProviders(c cid.Cid) {
	for p := range d.Sources.Node.FindProviders(d.ctx, c) {
		d.Sources.addPeer(kindDHT, p)
	}
}

// SearchArtifacts adds the peers that provide the artifacts of a release.
func (d *Discovery) SearchArtifacts(r manifest.Release) {
	if d.Sources.Node == nil || !d.Mode.Uses("dht") {
		return
	}
	d.tasks.Go(func() {
		for _, a := range r.Artifacts {
			d.addProviders(a.CID)
		}
	})
}

// SearchProviders adds the peers that provide c, now and as they announce it.
func (d *Discovery) SearchProviders(c cid.Cid) {
	if d.Sources.Node == nil || !d.Mode.Uses("dht") {
		return
	}
	d.tasks.Go(func() {
		for n := 0; d.ctx.Err() == nil; n++ {
			d.addProviders(c)
			select {
			case <-time.After(timing.Growing(timing.SearchPause, n, timing.SearchMaxPause)):
			case <-d.ctx.Done():
			}
		}
	})
}

func (d *Discovery) setStatus(way, words string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.statuses[way] = words
}

// Status describes the state of each way of discovery and of the first sources.
func (d *Discovery) Status() string {
	var out []string
	d.mu.Lock()
	for _, way := range []string{"mDNS", "DHT"} {
		if w, ok := d.statuses[way]; ok {
			out = append(out, way+": "+w)
		}
	}
	d.mu.Unlock()
	sources, _ := d.Sources.Known()
	for _, s := range sources[:min(len(sources), 5)] {
		out = append(out, s.status())
	}
	if err := d.Sources.candidates.lastError(); err != nil && len(sources) < 5 {
		out = append(out, fmt.Sprintf("last dialled peer: %v", err))
	}
	if len(out) == 0 {
		out = append(out, fmt.Sprintf("mode %s has no discovery of its own, and no mirror or peer was named", d.Mode.Name))
	}
	return report.Clean(strings.Join(out, "; "))
}
