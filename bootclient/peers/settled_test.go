package peers

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/phaseboot/phaseboot/bootclient/timing"
)

// The states of the sources that end a boot early, and those that do not.
func TestSettled(t *testing.T) {
	long, now := time.Now().Add(-time.Hour), time.Now()
	for _, row := range []struct {
		sources  string // kind and standing of each
		network  bool   // more sources may be found
		lastNews time.Time
		dialled  int // candidates that have not answered yet
		want     bool
	}{
		{"", false, now, 0, true},
		{"", true, long, 0, false},
		{"mirror refused", false, now, 0, true},
		{"mirror refused", true, now, 0, false},
		{"mirror refused", true, long, 0, true},
		{"mirror refused", true, long, 1, false},
		{"mirror refused, mirror out", false, long, 0, false},
		{"mirror out", false, long, 0, false},
		{"mirror refused, mdns refused", true, long, 0, true},
		{"mirror refused, mdns out", true, long, 0, false},
		{"mirror refused, mdns none", true, long, 0, true},
		{"mdns refused", true, long, 0, false},
		{"mdns refused, dht refused", true, long, 0, false},
		{"heard refused", true, long, 0, false},
		{"heard refused, mirror refused", true, long, 0, true},
		{"peer refused, dht refused", true, long, 0, true},
		{"bootstrap none, dht refused", true, long, 0, false},
		{"bootstrap none, mirror refused", true, long, 0, true},
		{"bootstrap out, mirror refused", true, long, 0, false},
	} {
		d := &Discovery{Sources: newSet(nil, nil, &timing.Usual), Network: row.network, Options: Options{Times: &timing.Usual}}
		stands := map[*Source]Standing{}
		for i, text := range strings.Split(row.sources, ", ") {
			kind, stand, found := strings.Cut(text, " ")
			if found {
				s := NewSource(kind, fmt.Sprint(i), nil)
				if kind == "heard" { // a mirror that a DHCP server named
					s.Kind, s.Heard = KindMirror, true
				}
				d.Sources.add(s)
				stands[s] = map[string]Standing{"out": OutOfReach, "refused": Refused, "none": NotASource}[stand]
			}
		}
		for range row.dialled {
			d.Sources.candidates.add(KindMDNS, peer.AddrInfo{ID: "someone"})
		}
		if got := d.Settled(row.lastNews, func(s *Source) Standing { return stands[s] }); got != row.want {
			t.Errorf("%q, network %t, %s after the last news, %d dialled: settled %t", row.sources, row.network, now.Sub(row.lastNews), row.dialled, got)
		}
	}
}

// A machine has no flags, and a host has no kernel command line to change.
func TestTheHintForTheDHTNamesTheArgumentThatThereIs(t *testing.T) {
	for machine, want := range map[bool]string{
		false: " (no bootstrap node is known; name one with --bootstrap)", true: " (no bootstrap node is known; name one with phase.bootstrap=)",
	} {
		if got := (&Discovery{Options: Options{KernelArgs: machine}}).bootstrapHint(); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}
