package e2e

import (
	"path/filepath"
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
	bootsFromOneAnother(newLAN(t), fx.path("local.img"), "] seed: from the cache partition")
}

// The same without a cache partition, and with 512 MiB of memory: A serves from memory.
func TestAMachineWithoutACacheBootsFromOneWithoutACache(t *testing.T) {
	t.Parallel()
	l := newLAN(t)
	stick := filepath.Join(l.dir, "diskless.img")
	must(t, "cp", "--sparse=always", fx.path("local.img"), stick)
	must(t, "sgdisk", "--delete=2", stick)
	bootsFromOneAnother(l, stick, "] seed: from memory", "-m", "512")
}

func bootsFromOneAnother(l *lan, image, how string, more ...string) {
	t := l.t
	t.Helper()
	publisher := l.host().publish("--dht", "off")
	a := l.boot(image, more...)
	marks := story()
	jump := slices.Index(marks, "] kexec: ")
	a.sees(slices.Insert(marks, jump, how), refused)
	a.sees([]string{"phase-boot seed: serving release " + release, "\n"})
	text, _ := a.console.since(0)
	peer := seeding.FindSubmatch(text)
	if peer == nil {
		t.Fatal("the seed has no address on the LAN")
	}
	publisher.stop()

	marks = story()
	marks[slices.Index(marks, "] source: ")] = "] source: " + string(peer[1]) + " (mdns): "
	l.boot(image, more...).sees(marks, refused, publisher.Peer+" (")
}
