package p2p

import (
	"math/rand/v2"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/phaseboot/phaseboot/cas"
)

// docs/SCALE.md has these figures.
func TestProviderRecordsGrowWithTheLogarithmOfTheMachines(t *testing.T) {
	for _, tt := range []struct{ machines, least, most int }{
		{10, 10, 10}, {16, 16, 16}, {100, 25, 65}, {1_000, 40, 105}, {10_000, 65, 135}, {1_000_000, 110, 190}, {2_000_000, 115, 200},
	} {
		entries := 0
		for range tt.machines {
			if enoughProviders(rand.Float64()) > entries {
				entries++
			}
		}
		t.Logf("%d machines: %d", tt.machines, entries)
		if entries < tt.least || entries > tt.most {
			t.Errorf("%d machines left %d entries, want %d to %d", tt.machines, entries, tt.least, tt.most)
		}
	}
}

func TestMachinesThatFindEnoughProvidersDoNotProvide(t *testing.T) {
	t.Parallel()
	const machines, always, most = 80, fewProviders, 60 // about 37 are expected
	boot := start(t, Options{Listen: addrs(t, "/ip4/127.0.0.1/tcp/0"), MaxConnsPerIP: 2 * machines, DHT: DHTServer, Prefix: testPrefix})
	bootstrap := []peer.AddrInfo{infoOf(boot)}
	c := cas.Sum(0x70, []byte("an artifact"))
	offer := func(n *Node) bool {
		t.Helper()
		provides, err := n.ProvideIfFew(within(t, time.Minute), c)
		check(t, err)
		return provides
	}
	var first *Node
	entries := 0
	for i := range machines {
		machine := start(t, Options{Listen: addrs(t, "/ip4/127.0.0.1/tcp/0"), DHT: DHTClient, Prefix: testPrefix, Bootstrap: bootstrap})
		provides := offer(machine)
		if provides {
			entries++
		}
		if i < always && !provides {
			t.Errorf("machine %d does not provide, with fewer than %d providers", i+1, always)
		}
		if i == 0 {
			first = machine
		} else if !provides {
			machine.Close()
		}
	}
	found := 0
	for range first.providers(within(t, time.Minute), c, 10*machines) {
		found++
	}
	t.Logf("%d of %d machines provide", entries, machines)
	if entries > most {
		t.Errorf("%d of %d machines provide", entries, machines)
	}
	if found >= entries || found < entries*3/4 { // an announcement is one message and can be lost
		t.Errorf("%d machines provide, and the DHT returned %d others", entries, found)
	}
}
