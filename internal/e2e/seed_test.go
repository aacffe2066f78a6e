package e2e

import (
	"path/filepath"
	"regexp"
	"slices"
	"testing"
)

// seeding matches the line of phase-boot seed in a target. Its group is the peer ID.
var seeding = regexp.MustCompile(`phase-boot seed: serving release ` + regexp.QuoteMeta(release) + ` as peer (12D3\w+) at http://10\.55\.0\.`)

// Machine A boots from the publisher. Then the publisher stops, and machine B boots from A,
// whose target serves the release. Both find their source by mDNS.
func TestAMachineBootsFromAnotherMachine(t *testing.T) {
	t.Parallel()
	bootsFromOneAnother(newLAN(t), fx.path("local.img"), "] seed: from the cache partition")
}

// Without a cache partition and with 512 MiB of memory, machine A serves from memory.
func TestAMachineWithoutACacheServesFromMemory(t *testing.T) {
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
	marks := bootMarks()
	jump := slices.Index(marks, "] kexec: ")
	a.waitFor(slices.Insert(marks, jump, how), refused)
	a.waitFor([]string{"phase-boot seed: serving release " + release, "\n"})
	text, _ := a.console.since(0)
	peer := seeding.FindSubmatch(text)
	if peer == nil {
		t.Fatal("the console shows no LAN address of phase-boot seed")
	}
	publisher.stop()

	marks = bootMarks()
	marks[slices.Index(marks, "] source: ")] = "] source: " + string(peer[1]) + " (mdns): "
	l.boot(image, more...).waitFor(marks, refused, publisher.Peer+" (")
}
