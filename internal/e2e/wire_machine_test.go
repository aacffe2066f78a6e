//go:build machine

package e2e

import (
	"os"
	"path/filepath"
	"testing"
)

// A machine boots from an onion service. It sends nothing to the mirror's address, no DNS request although the
// lease names a DNS server, and nothing at all after the jump.
func TestBootThroughTorFromAnOnionService(t *testing.T) {
	t.Parallel()
	l := newLANWithDNS(t)
	tor := newTorNetwork(l)
	publisher := l.host()
	publisher.publish("--dht", "off", "--mdns=false")
	onion := tor.onion(publisher, 8080)

	torrc, image := filepath.Join(l.dir, "torrc"), filepath.Join(l.dir, "tor.img")
	if err := os.WriteFile(torrc, []byte(tor.common), 0o644); err != nil {
		t.Fatal(err)
	}
	must(t, fx.bin("phase-image"), "usb", "--root", fx.path("repo/root.json"), "--with-tor", "--torrc", torrc, "--default-mode", "tor",
		"--cmdline", "phase.mirror=http://"+onion, "--size", "512M", "--out", image)
	disk, tap := filepath.Join(l.dir, "disk.img"), l.tap()
	must(t, "cp", "--sparse=always", image, disk)
	wire := l.capture(tap, tor.servers())
	m := l.startQEMU(disk, "tap:"+tap)
	marks := append([]string{"] network: eth0 10.55", "tor: 100 %: done", "] tor: connected"}, bootMarks()[2:]...)
	m.waitFor(marks, refused)
	m.waitFor([]string{"] source: http://" + onion})
	m.powerOff()

	packets := wire.all()
	sentOnly(t, packets, allowList(t, "tor"))
	if n := count(packets); n["tor"] < 1000 || n["dhcp4"] < 2 {
		t.Errorf("the capture has %v", n)
	}
	unchanged(t, disk, image)
}

// unchanged fails the test if a boot has changed a disk.
func unchanged(t *testing.T, disk, image string) {
	t.Helper()
	must(t, "cmp", disk, image)
}
