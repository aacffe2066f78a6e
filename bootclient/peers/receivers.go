package peers

import (
	"net/http"
	"slices"
	"strings"

	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/multiformats/go-multiaddr"

	"github.com/phaseboot/phaseboot/bootclient/report"
)

// Receivers are addresses that may take boot reports: URLs, and multiaddrs with /p2p/ID.
type Receivers struct {
	// Named are those of sources that a person or root.json named. First are those that said that they take reports.
	// Then come mirrors that did not, because a proxy may have hidden it, and last peers that were not reached.
	Named []string
	// Heard are those of sources that only mDNS, the DHT or DHCP named, and that said that they take reports.
	Heard []string
}

// Receivers returns the addresses that may take boot reports. A peer that was reached and did not say that it takes
// them is none of them.
func (set *Set) Receivers() (r Receivers) {
	known, _ := set.Known()
	var silent, missing []string
	for _, s := range known {
		s.mu.Lock()
		endpoints := s.endpoints
		s.mu.Unlock()
		says := slices.ContainsFunc(endpoints, func(e *Endpoint) bool { return e.gateway != nil && e.gateway.TakesReports() })
		for _, e := range endpoints {
			switch {
			case e.gateway == nil || strings.HasPrefix(e.gateway.Base, "file:"):
			case says && s.Named():
				r.Named = append(r.Named, e.addresses...)
			case says:
				r.Heard = append(r.Heard, e.addresses...)
			case s.Kind == KindMirror && s.Named():
				silent = append(silent, e.addresses...)
			}
		}
		if len(endpoints) == 0 && s.Named() {
			missing = append(missing, set.addressesOf(s.Key)...)
		}
	}
	r.Named = slices.Concat(r.Named, silent, missing)
	return r
}

// addressesOf returns the addresses of a peer that was not reached.
func (set *Set) addressesOf(key string) []string {
	id, err := peer.Decode(key)
	if err != nil {
		return nil // a mirror
	}
	set.mu.Lock()
	defer set.mu.Unlock()
	info := set.addrs[id]
	if info == nil {
		return nil
	}
	return streamAddresses(*info)
}

// maxStreamAddresses is how many addresses of a peer are receivers.
const maxStreamAddresses = 2

// streamAddresses returns the first TCP addresses of a peer, with its ID.
func streamAddresses(info peer.AddrInfo) (list []string) {
	for _, a := range info.Addrs {
		if _, err := a.ValueForProtocol(multiaddr.P_TCP); err == nil && len(list) < maxStreamAddresses {
			list = append(list, a.String()+"/p2p/"+info.ID.String())
		}
	}
	return list
}

// ReportHTTP returns the HTTP client for boot reports to URLs. It has no proxy, and ignores the dates of certificates,
// because nothing has set the clock of a machine that boots.
func ReportHTTP(r *report.Report) *http.Client {
	client, _ := Options{ClockUnsure: true, Report: r}.mirrorHTTP() // an error only for a proxy
	return client
}
