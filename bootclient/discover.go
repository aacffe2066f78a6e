package bootclient

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/phaseboot/phaseboot/internal/bootargs"
	"github.com/phaseboot/phaseboot/internal/gateway"
	"github.com/phaseboot/phaseboot/internal/p2p"
	"github.com/phaseboot/phaseboot/manifest"
)

const (
	searchPause    = time.Second     // between searches of the DHT that found nothing
	searchMaxPause = 5 * time.Second // the longest of them
	heardBuffer    = 16              // pointers from the DHT that wait to be looked at
)

// A discovery finds sources until it is closed, and pointers of the DHT that come
// from no source in particular.
type discovery struct {
	sources *sourceSet
	shared  *sharedBlocks // blocks that this machine shares; nil when it shares none
	serving *serving      // serves the shared blocks; nil without them
	rest    chan struct{} // closed when the metadata for others is there; nil before it is sought
	heard   chan head     // from the DHT
	folder  SourceStats   // what earlier files of the sink gave; for the goroutine of Run
	network bool          // mDNS or the DHT may find more at any time
	// isolated says that no source can be reached and none can be found.
	isolated bool

	cfg    Config
	trust  manifest.Discovery
	ctx    context.Context
	cancel context.CancelFunc
	tasks  sync.WaitGroup

	mu    sync.Mutex
	words map[string]string // what each way of looking has come to
}

// discover starts to look by the ways of the mode and by the hints.
func discover(ctx context.Context, cfg Config, trust manifest.Discovery) (*discovery, error) {
	web, err := mirrorHTTP(cfg)
	if err != nil {
		return nil, err
	}
	d := &discovery{sources: newSourceSet(web, cfg.times), heard: make(chan head, heardBuffer), cfg: cfg, trust: trust, words: map[string]string{}}
	d.ctx, d.cancel = context.WithCancel(ctx)
	d.isolated = d.nowhere()
	d.mirrors()
	if err := d.peers(); err != nil {
		d.close()
		return nil, err
	}
	d.tasks.Go(func() { d.sources.dialAll(d.ctx) })
	return d, nil
}

// mirrorHTTP returns the client that asks mirrors.
func mirrorHTTP(cfg Config) (*http.Client, error) {
	client := gateway.NewHTTP(nil)
	base := client.Transport.(*http.Transport)
	var err error
	if base.Proxy, err = cfg.proxy(); err != nil {
		return nil, err
	}
	client.Transport = newDatesTransport(base, cfg.ClockUnsure, func(passed error) {
		cfg.Report.Begin("clock").Done("%v", passed)
	})
	return client, nil
}

// proxy returns what names the proxy for a mirror: the mode's, else that of the configuration.
// It is nil for none.
func (c Config) proxy() (func(*http.Request) (*url.URL, error), error) {
	if c.Mode.Proxy == "" {
		return c.Proxy, nil
	}
	at, err := url.Parse(c.Mode.Proxy)
	if err != nil {
		return nil, misuse{fmt.Sprintf("proxy %.200q: not a URL; mend the mode", bootargs.Redact(c.Mode.Proxy))}
	}
	return http.ProxyURL(at), nil
}

// close ends all searches and connections.
func (d *discovery) close() {
	d.cancel()
	d.tasks.Wait()
	if d.serving != nil {
		if err := d.serving.close(); err != nil {
			d.cfg.Log.Debug("share: closing", "err", err)
		}
	} else if d.sources.node != nil {
		if err := d.sources.node.Close(); err != nil {
			d.cfg.Log.Debug("discover: closing the peer", "err", err)
		}
	}
	d.sources.http.CloseIdleConnections()
	d.sources.web.CloseIdleConnections()
}

func (d *discovery) mirrors() {
	for _, m := range d.cfg.Mirrors {
		if err := bootargs.CheckMirror(m); err != nil {
			d.cfg.Report.Refuse("command line", "mirror", err)
			continue
		}
		d.sources.mirror(m)
	}
	if d.cfg.Mode.Uses("mirror") {
		for _, m := range d.trust.HTTPS {
			d.sources.mirror(m)
		}
	}
}

// peers starts a node when the mode or a hint needs one, and feeds what it finds
// into the source set. A mode with a proxy has no node: it would not go through it.
func (d *discovery) peers() error {
	named := d.parse(d.cfg.Peers)
	enter := d.parse(d.cfg.Bootstrap)
	useDHT, useMDNS := d.cfg.Mode.Uses("dht"), d.cfg.Mode.Uses("mdns")
	if d.cfg.Mode.Proxy != "" {
		for _, p := range append(named, enter...) {
			d.cfg.Report.Refuse("command line", "peer", fmt.Errorf("%s: not asked: the proxy of mode %s is for mirrors only; name a mirror, or another mode", p.ID, d.cfg.Mode.Name))
		}
		return nil
	}
	if !useDHT && !useMDNS && len(named)+len(enter) == 0 {
		return nil
	}
	opts := p2p.Options{MDNS: useMDNS, DHT: p2p.DHTOff, Log: d.cfg.Log}
	if useDHT && d.trust.DHTPrefix != "" {
		opts.DHT, opts.Prefix = p2p.DHTClient, d.trust.DHTPrefix
		opts.Bootstrap = append(append([]peer.AddrInfo{}, enter...), d.parse(d.trust.Bootstrap)...)
	}
	if d.cfg.shares() {
		d.shared = newSharedBlocks()
	}
	if err := d.start(opts); err != nil {
		return err
	}
	for _, p := range named {
		d.sources.peer(kindPeer, p)
	}
	for _, p := range enter {
		d.sources.peer(kindBootstrap, p)
	}
	if useMDNS {
		d.network = true
		d.say("mDNS", "found nobody")
		d.tasks.Go(d.listen)
	}
	if opts.DHT != p2p.DHTOff {
		d.network = true
		for _, name := range d.trust.IPNS {
			d.tasks.Go(func() { d.searchHead(name) })
		}
	}
	return nil
}

func (d *discovery) parse(addrs []string) []peer.AddrInfo {
	var out []peer.AddrInfo
	for _, a := range addrs {
		info, err := bootargs.ParsePeer(a)
		if err != nil {
			d.cfg.Report.Refuse("command line", "peer", err)
			continue
		}
		out = append(out, info)
	}
	return out
}

// listen takes what mDNS finds.
func (d *discovery) listen() {
	found := map[peer.ID]bool{}
	for {
		select {
		case p := <-d.sources.node.Found():
			d.sources.peer(kindMDNS, p)
			found[p.ID] = true
			d.say("mDNS", fmt.Sprintf("found %d", len(found)))
		case <-d.ctx.Done():
			return
		}
	}
}

// searchHead asks the DHT for the newest record of a name, and for those who have
// the folder that it points to, again and again.
func (d *discovery) searchHead(name string) {
	d.say("DHT", "no peer answered"+d.entrance())
	pause := searchPause
	for {
		rec, err := d.sources.node.GetIPNS(d.ctx, name)
		if err == nil {
			h := head{name: name, record: rec}
			if h.folder, h.seq, err = p2p.CheckRecord(name, rec); err == nil {
				d.say("DHT", fmt.Sprintf("points to %s", h.folder))
				select {
				case d.heard <- h:
				default: // the release is chosen, or it comes again with the next search
				}
				d.search(h.folder)
				pause = searchMaxPause
			}
		}
		if err != nil && d.ctx.Err() == nil {
			d.say("DHT", err.Error())
		}
		select {
		case <-time.After(pause):
			pause = min(2*pause, searchMaxPause)
		case <-d.ctx.Done():
			return
		}
	}
}

func (d *discovery) entrance() string {
	if len(d.cfg.Bootstrap)+len(d.trust.Bootstrap) == 0 {
		return " (no bootstrap node is known; name one with --bootstrap or phase.bootstrap=)"
	}
	return ""
}

// search adds the peers that provide c.
func (d *discovery) search(c cid.Cid) {
	for p := range d.sources.node.FindProviders(d.ctx, c) {
		d.sources.peer(kindDHT, p)
	}
}

// searchAlso looks for peers that provide the artifacts of a release, beside those
// that have its metadata.
func (d *discovery) searchAlso(r manifest.Release) {
	if d.sources.node == nil || !d.cfg.Mode.Uses("dht") {
		return
	}
	d.tasks.Go(func() {
		for _, a := range r.Artifacts {
			d.search(a.CID)
		}
	})
}

func (d *discovery) say(way, words string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.words[way] = words
}

// tried words how each way of looking went, for the one who must mend it.
func (d *discovery) tried() string {
	var out []string
	d.mu.Lock()
	for _, way := range []string{"mDNS", "DHT"} {
		if w, ok := d.words[way]; ok {
			out = append(out, way+" "+w)
		}
	}
	d.mu.Unlock()
	sources, _ := d.sources.known()
	for _, s := range sources[:min(len(sources), 5)] {
		out = append(out, s.story())
	}
	if err := d.sources.candidates.lastError(); err != nil && len(sources) < 5 {
		out = append(out, fmt.Sprintf("a peer that was found: %v", err))
	}
	if len(out) == 0 {
		out = append(out, fmt.Sprintf("mode %s looks nowhere by itself and no mirror or peer was named", d.cfg.Mode.Name))
	}
	return clean(strings.Join(out, "; "))
}
