package e2e

import (
	"regexp"
	"slices"
	"testing"
)

// seeding is the line of phase-boot seed in a target, with its peer ID.
var seeding = regexp.MustCompile(`phase-boot seed: serving release ` + regexp.QuoteMeta(release) + ` as peer (12D3\w+) at http://10\.55\.0\.`)

// Machine A boots from the publisher, the publisher goes, machine B boots from A, which
// serves from its target by then. Nobody typed an address.
func TestAMachineBootsFromOneThatBootedBeforeIt(t *testing.T) {
	t.Parallel()
	l := newLAN(t)
	publisher := l.host().publish("--dht", "off")
	a := l.boot(fx.path("local.img"))
	a.sees(story(), refused)
	a.sees([]string{"phase-boot seed: serving release " + release, "\n"})
	text, _ := a.console.since(0)
	peer := seeding.FindSubmatch(text)
	if peer == nil {
		t.Fatal("the seed has no address on the LAN")
	}
	publisher.stop()

	marks := story()
	marks[slices.Index(marks, "] source: ")] = "] source: " + string(peer[1]) + " (mdns): "
	l.boot(fx.path("local.img")).sees(marks, refused, publisher.Peer+" (")
}
