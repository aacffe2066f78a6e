package bootclient

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
	"github.com/phaseboot/phaseboot/manifest"
	"github.com/phaseboot/phaseboot/modes"
)

const (
	pointerBuffer = 16 // pointers from the DHT that are not handled yet
)

// discoveryOptions say where sources are looked for.
type discoveryOptions struct {
	mode        modes.Mode
	mirrors     []string           // hints
	peers       []string           // hints
	bootstrap   []string           // hints
	trust       manifest.Discovery // addresses of root.json
	clockUnsure bool               // ignore the dates of https certificates
	proxy       func(*http.Request) (*url.URL, error)
	timeout     time.Duration // of the search
	patience    time.Duration // of the fetch
	times       *timing.Table
	interfaces  func() ([]net.Interface, error)
	log         *slog.Logger
	report      *report.Report
}

// A discovery finds sources by mirrors, hints, mDNS and the DHT until it is closed. It also
// finds pointers in the DHT.
type discovery struct {
	discoveryOptions
	sources  *sourceSet
	pointers chan pointer // from the DHT
	network  bool         // mDNS or the DHT may find more sources at any time
	isolated bool         // no source can be reached, and none can be found

	ctx    context.Context
	cancel context.CancelFunc
	tasks  sync.WaitGroup

	mu       sync.Mutex
	statuses map[string]string // status of mDNS and the DHT
}

// discover starts the ways of discovery that the mode and the hints allow. node is nil if
// nodeOptions says that none is needed.
func discover(ctx context.Context, o discoveryOptions, node *p2p.Node) (*discovery, error) {
	web, err := o.mirrorHTTP()
	if err != nil {
		return nil, err
	}
	d := &discovery{discoveryOptions: o, sources: newSourceSet(web, node, o.times), pointers: make(chan pointer, pointerBuffer), statuses: map[string]string{}}
	d.ctx, d.cancel = context.WithCancel(ctx)
	d.isolated = d.noNetwork()
	d.addMirrors()
	d.addPeers()
	d.tasks.Go(func() { d.sources.dialAll(d.ctx) })
	return d, nil
}

// mirrorHTTP returns the HTTP client for mirrors.
func (o discoveryOptions) mirrorHTTP() (*http.Client, error) {
	client := gateway.NewHTTP(nil)
	base := client.Transport.(*http.Transport)
	var err error
	if base.Proxy, err = o.mirrorProxy(); err != nil {
		return nil, err
	}
	client.Transport = newDatesTransport(base, o.clockUnsure, func(ignored error) {
		o.report.Begin("clock").Done("%v", ignored)
	})
	return client, nil
}

// mirrorProxy returns the function that selects the proxy for a mirror: the mode's proxy, else
// that of the configuration. It is nil for no proxy.
func (o discoveryOptions) mirrorProxy() (func(*http.Request) (*url.URL, error), error) {
	if o.mode.Proxy == "" {
		return o.proxy, nil
	}
	at, err := url.Parse(o.mode.Proxy)
	if err != nil {
		return nil, bootargs.Usagef("proxy %.200q: not a URL; correct the mode", bootargs.Redact(o.mode.Proxy))
	}
	return http.ProxyURL(at), nil
}

// close ends all searches and connections. It does not close the node.
func (d *discovery) close() {
	d.cancel()
	d.tasks.Wait()
	d.sources.http.CloseIdleConnections()
	d.sources.web.CloseIdleConnections()
}

func (d *discovery) addMirrors() {
	for _, m := range d.mirrors {
		if err := bootargs.CheckMirror(m); err != nil {
			d.report.Refuse("command line", "mirror", err)
			continue
		}
		d.sources.addMirror(m)
	}
	if d.mode.Uses("mirror") {
		for _, m := range d.trust.HTTPS {
			d.sources.addMirror(m)
		}
	}
}

// nodeOptions returns the options of the node that finds and dials peers. needed is false if the
// mode and the hints need none. A mode with a proxy has no node, because a node would not use
// the proxy.
func (o discoveryOptions) nodeOptions() (opts p2p.Options, needed bool) {
	useDHT, useMDNS := o.mode.Uses("dht"), o.mode.Uses("mdns")
	enter := o.parsePeers(o.bootstrap)
	opts = p2p.Options{MDNS: useMDNS, DHT: p2p.DHTOff, Log: o.log}
	if useDHT && o.trust.DHTPrefix != "" {
		opts.DHT, opts.Prefix = p2p.DHTClient, o.trust.DHTPrefix
		opts.Bootstrap = append(enter, o.parsePeers(o.trust.Bootstrap)...)
	}
	return opts, o.mode.Proxy == "" && (useDHT || useMDNS || len(o.parsePeers(o.peers))+len(enter) > 0)
}

// addPeers adds the named peers, and starts mDNS and the DHT.
func (d *discovery) addPeers() {
	named, enter := d.parsePeers(d.peers), d.parsePeers(d.bootstrap)
	if d.mode.Proxy != "" {
		for _, p := range append(named, enter...) {
			d.report.Refuse("command line", "peer", fmt.Errorf("%s: not used: the proxy of mode %s is for mirrors only; name a mirror or another mode", p.ID, d.mode.Name))
		}
		return
	}
	if d.sources.node == nil {
		return
	}
	for _, p := range named {
		d.sources.addPeer(kindPeer, p)
	}
	for _, p := range enter {
		d.sources.addPeer(kindBootstrap, p)
	}
	if d.mode.Uses("mdns") {
		d.network = true
		d.setStatus("mDNS", "no peers yet")
		d.tasks.Go(d.addAnnounced)
	}
	if d.mode.Uses("dht") && d.trust.DHTPrefix != "" {
		d.network = true
		for _, name := range d.trust.IPNS {
			d.tasks.Go(func() { d.searchPointer(name) })
		}
	}
}

func (o discoveryOptions) parsePeers(addrs []string) []peer.AddrInfo {
	var out []peer.AddrInfo
	for _, a := range addrs {
		info, err := bootargs.ParsePeer(a)
		if err != nil {
			o.report.Refuse("command line", "peer", err)
			continue
		}
		out = append(out, info)
	}
	return out
}

// addAnnounced adds the peers that mDNS finds.
func (d *discovery) addAnnounced() {
	found := map[peer.ID]bool{}
	for {
		select {
		case p := <-d.sources.node.MDNSPeers():
			d.sources.addPeer(kindMDNS, p)
			found[p.ID] = true
			d.setStatus("mDNS", report.Count(len(found), "peer"))
		case <-d.ctx.Done():
			return
		}
	}
}

// searchPointer looks up the newest record of a name in the DHT again and again, and adds the
// peers that provide the metadata directory.
func (d *discovery) searchPointer(name string) {
	d.setStatus("DHT", "no peer has answered"+d.bootstrapHint())
	pause := timing.SearchPause
	for {
		rec, err := d.sources.node.GetIPNS(d.ctx, name)
		if err == nil {
			ptr := pointer{name: name, record: rec}
			if ptr.directory, ptr.seq, err = p2p.CheckRecord(name, rec); err == nil {
				d.setStatus("DHT", fmt.Sprintf("pointer to %s", ptr.directory))
				select {
				case d.pointers <- ptr:
				default: // the release is chosen, or the next search finds it again
				}
				d.addProviders(ptr.directory)
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

func (d *discovery) bootstrapHint() string {
	if len(d.bootstrap)+len(d.trust.Bootstrap) == 0 {
		return " (no bootstrap node is known; name one with --bootstrap or phase.bootstrap=)"
	}
	return ""
}

// addProviders adds the peers that provide c.
func (d *discovery) addProviders(c cid.Cid) {
	for p := range d.sources.node.FindProviders(d.ctx, c) {
		d.sources.addPeer(kindDHT, p)
	}
}

// searchArtifacts adds the peers that provide the artifacts of a release.
func (d *discovery) searchArtifacts(r manifest.Release) {
	if d.sources.node == nil || !d.mode.Uses("dht") {
		return
	}
	d.tasks.Go(func() {
		for _, a := range r.Artifacts {
			d.addProviders(a.CID)
		}
	})
}

func (d *discovery) setStatus(way, words string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.statuses[way] = words
}

// status describes the state of each way of discovery and of the first sources.
func (d *discovery) status() string {
	var out []string
	d.mu.Lock()
	for _, way := range []string{"mDNS", "DHT"} {
		if w, ok := d.statuses[way]; ok {
			out = append(out, way+": "+w)
		}
	}
	d.mu.Unlock()
	sources, _ := d.sources.known()
	for _, s := range sources[:min(len(sources), 5)] {
		out = append(out, s.status())
	}
	if err := d.sources.candidates.lastError(); err != nil && len(sources) < 5 {
		out = append(out, fmt.Sprintf("last dialled peer: %v", err))
	}
	if len(out) == 0 {
		out = append(out, fmt.Sprintf("mode %s has no discovery of its own, and no mirror or peer was named", d.mode.Name))
	}
	return report.Clean(strings.Join(out, "; "))
}
