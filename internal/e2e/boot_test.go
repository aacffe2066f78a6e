package e2e

import (
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// bootMarks are the texts that the console of a successful boot shows, in this order.
func bootMarks(more ...string) []string {
	marks := []string{
		"BdsDxe: starting",         // the firmware
		"] network: eth0 10.55",    // PID 1 of the stick
		"] resolve: ",              // the signed metadata
		"] kexec: ",                // the start of the target's kernel
		"Linux version",            // the target's kernel
		"phase.release=" + release, // from the signed manifest
		"phase-boot: target: ",     // the target's initramfs
		"systemd[1]",               // the target's root filesystem
		"plasmd: receipt {",        // the job
	}
	return append(marks[:3:3], append(append(more, "] source: "), marks[3:]...)...)
}

const (
	refused   = "phase-boot: boot refused"
	menuShown = "then press Enter."
)

func TestBootFromTheLANWithNoHint(t *testing.T) {
	t.Parallel()
	l := newLAN(t)
	publisher := l.host()
	publisher.publish("--dht", "off")
	disk := filepath.Join(l.dir, "stick.img") // larger than its image, as most sticks are
	must(t, "cp", "--sparse=always", fx.path("local.img"), disk)
	must(t, "truncate", "-s", "4G", disk)
	m := l.powerOn(disk)
	m.waitFor([]string{"] cache: /dev/vda2 (rw), grown from "}, refused)
	m.waitFor(bootMarks(), refused)
	m.waitFor([]string{"] boot report: sent to ", "phase-boot report: sent to "}, refused)
	m.powerOff()
	checkTable(t, disk)
	list := publisher.machines()
	if len(list) != 1 || list[0].Boots != 1 || list[0].Last.Result != "ok" || list[0].Last.Mode != "local" || list[0].Last.Release != release {
		t.Fatalf("the publisher has %+v", list)
	}
	shown := string(must(t, fx.bin("phase-publish"), "machines", "show", "--reports", publisher.reports(), "--boot", list[0].Last.ID, list[0].Key[:16]))
	for _, want := range []string{`"name":"rootfs"`, `"command_line":"`, `"name":"boot report"`} {
		if !strings.Contains(shown, want) {
			t.Errorf("the report of the target has no %s: %s", want, shown)
		}
	}
}

// checkTable fails unless sgdisk finds no problem in the partition table of a disk.
func checkTable(t *testing.T, disk string) {
	t.Helper()
	if said := string(must(t, "sgdisk", "-v", disk)); !strings.Contains(said, "No problems found") || strings.Contains(said, "Caution") {
		t.Errorf("sgdisk: %s", said)
	}
}

func TestBootThroughTheDHTFromABootstrapNodeThatIsNotThePublisher(t *testing.T) {
	t.Parallel()
	l := newLAN(t)
	node := l.host()
	bootstrap := node.serve(fx.bin("phase-publish"), "bootstrap", "--root", fx.path("repo/root.json"),
		"--identity", filepath.Join(t.TempDir(), "peer.key"), "--listen", "/ip4/"+node.addr+"/tcp/4001")
	l.host().publish("--mdns=false", "--bootstrap", bootstrap.tcp(t))

	l.boot(l.image("--default-mode", "internet", "--cmdline", "phase.bootstrap="+bootstrap.tcp(t))).waitFor(bootMarks(), refused)
}

func TestBootRefusesAPublisherThatFlipsOneByte(t *testing.T) {
	t.Parallel()
	l := newLAN(t)
	block := leaves(t, "rootfs")[7]
	l.host().flip(block)
	l.boot(fx.path("local.img")).waitFor([]string{"] resolve: ", refused, block, menuShown}, "] kexec: ", "phase.release="+release)
}

func TestBootNamesAPublisherThatFlipsBytes(t *testing.T) {
	t.Parallel()
	l := newLAN(t)
	flipped := leaves(t, "kernel")
	for i, name := range leaves(t, "rootfs") {
		if i%16 == 0 { // mDNS may find the publisher after the kernel was fetched
			flipped = append(flipped, name)
		}
	}
	bad := l.host().flip(flipped...)
	l.host().publish("--dht", "off")
	l.boot(fx.path("local.img")).waitFor(bootMarks(bad), refused)
}

// The publisher starts 30 s after the machine. Until then, the only peer answers every request
// with a text.
func TestBootBesideAPeerWithoutARecordWhileThePublisherIsLate(t *testing.T) {
	t.Parallel()
	l := newLAN(t)
	peer := l.host()
	name := peer.serve(fx.bin("flipper"), "/ip4/"+peer.addr+"/tcp/4002", "text", "no record at all").Peer
	m := l.boot(fx.path("local.img"))
	late := time.After(30 * time.Second)
	m.waitFor([]string{"] network: eth0 10.55", name}, refused)
	<-late
	l.host().publish("--dht", "off")
	m.waitFor(bootMarks(), refused)
}
