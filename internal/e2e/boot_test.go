package e2e

import (
	"path/filepath"
	"testing"
	"time"
)

// story is what the console of an honest boot shows, in this order.
func story(more ...string) []string {
	marks := []string{
		"BdsDxe: starting",         // the firmware
		"] network: eth0 10.55",    // PID 1 of the stick
		"] resolve: ",              // the signed metadata
		"] kexec: ",                // the jump
		"Linux version",            // the target's kernel
		"phase.release=" + release, // which only the manifest could put there
		"phase-boot: target: ",     // the target's initramfs
		"systemd[1]",               // the target's root filesystem
		"plasmd: receipt {",        // the job
	}
	return append(marks[:3:3], append(append(more, "] source: "), marks[3:]...)...)
}

const refused = "phase-boot: boot refused"

func TestBootFromTheLANWithNoHint(t *testing.T) {
	t.Parallel()
	l := newLAN(t)
	l.host().publish("--dht", "off")
	l.boot(fx.path("local.img")).sees(story(), refused)
}

func TestBootThroughTheDHTFromABootstrapNodeThatIsNotThePublisher(t *testing.T) {
	t.Parallel()
	l := newLAN(t)
	node := l.host()
	bootstrap := node.serve(fx.bin("phase-publish"), "bootstrap", "--root", fx.path("repo/root.json"),
		"--identity", filepath.Join(t.TempDir(), "peer.key"), "--listen", "/ip4/"+node.addr+"/tcp/4001")
	l.host().publish("--mdns=false", "--bootstrap", bootstrap.tcp(t))

	image := filepath.Join(l.dir, "internet.img")
	must(t, fx.bin("phase-image"), "usb", "--root", fx.path("repo/root.json"), "--default-mode", "internet",
		"--cmdline", "phase.bootstrap="+bootstrap.tcp(t), "--size", "512M", "--out", image)
	l.boot(image).sees(story(), refused)
}

func TestBootRefusesAPublisherThatFlipsOneByte(t *testing.T) {
	t.Parallel()
	l := newLAN(t)
	block := leaves(t, "rootfs")[7]
	l.host().flip(block)
	l.boot(fx.path("local.img")).sees([]string{"] resolve: ", refused, block, "built-in shell"}, "] kexec: ", "phase.release="+release)
}

func TestBootBesideAPublisherThatFlipsBytesNamesIt(t *testing.T) {
	t.Parallel()
	l := newLAN(t)
	flipped := leaves(t, "kernel")
	for i, name := range leaves(t, "rootfs") {
		if i%16 == 0 { // it may be found when the machine has the kernel
			flipped = append(flipped, name)
		}
	}
	bad := l.host().flip(flipped...)
	l.host().publish("--dht", "off")
	l.boot(fx.path("local.img")).sees(story(bad), refused)
}

// The publisher comes half a minute after the machine, and until then the only neighbour answers
// every request with a text.
func TestBootBesideAPeerWithoutARecordWhileThePublisherIsLate(t *testing.T) {
	t.Parallel()
	l := newLAN(t)
	liar := l.host()
	name := liar.serve(fx.bin("flipper"), "/ip4/"+liar.addr+"/tcp/4002", "says", "no record at all").Peer
	m := l.boot(fx.path("local.img"))
	late := time.After(30 * time.Second)
	m.sees([]string{"] network: eth0 10.55", name}, refused)
	<-late
	l.host().publish("--dht", "off")
	m.sees(story(), refused)
}
