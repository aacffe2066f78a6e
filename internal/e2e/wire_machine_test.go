//go:build machine

package e2e

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"golang.org/x/sys/unix"
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

	torrc := filepath.Join(l.dir, "torrc")
	if err := os.WriteFile(torrc, []byte(tor.common), 0o644); err != nil {
		t.Fatal(err)
	}
	image := l.image("--with-tor", "--torrc", torrc, "--default-mode", "tor", "--cmdline", "phase.mirror=http://"+onion)
	disk, tap := filepath.Join(l.dir, "disk.img"), l.tap()
	must(t, "cp", "--sparse=always", image, disk)
	wire := l.capture(tap, tor.servers())
	m := l.startQEMU(disk, "tap:"+tap)
	jump := m.jumped()
	marks := append([]string{"] network: eth0 10.55", "tor: 100 %: done", "] tor: connected"}, bootMarks()[2:]...)
	m.waitFor(marks, refused)
	m.waitFor([]string{"] source: http://" + onion})
	m.powerOff()

	packets := wire.all()
	sentOnly(t, packets, allowList(t, "tor"))
	silentAfter(t, packets, jump)
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

// dhcpMessages parses the DHCP messages of a machine.
func dhcpMessages(t *testing.T, packets []sent) (list []*dhcpv4.DHCPv4) {
	t.Helper()
	for _, p := range packets {
		if p.kind != "dhcp4" {
			continue
		}
		m, err := dhcpv4.FromBytes(p.data[14+20+8:])
		if err != nil {
			t.Fatalf("DHCP: %v in %x", err, p.data)
		}
		list = append(list, m)
	}
	return list
}

// jumped returns when the machine left the boot kernel. Later packets are those of the target.
func (m *machine) jumped() time.Time {
	m.t.Helper()
	m.waitFor([]string{"] kexec: starting the new kernel"}, refused)
	return time.Now()
}

// silentAfter fails the test if the machine has sent a packet after the jump.
func silentAfter(t *testing.T, packets []sent, jump time.Time) {
	t.Helper()
	for _, p := range packets {
		if p.at.After(jump) {
			t.Errorf("it has sent %s after the jump", p.what)
		}
	}
}

// identifiers returns everything in the packets that may identify a machine: hardware addresses, transaction numbers,
// names and client identifiers of DHCP, and its own addresses.
func identifiers(t *testing.T, packets []sent) map[string]bool {
	t.Helper()
	ids := map[string]bool{}
	for _, p := range packets {
		ids["hardware address "+p.mac] = true
		if binary.BigEndian.Uint16(p.data[12:]) == unix.ETH_P_IP && len(p.data) >= 34 {
			from, _ := netip.AddrFromSlice(p.data[26:30])
			if !from.IsUnspecified() {
				ids["address "+from.String()] = true
			}
		}
	}
	for _, m := range dhcpMessages(t, packets) {
		ids["DHCP transaction "+m.TransactionID.String()] = true
		for _, option := range []dhcpv4.OptionCode{dhcpv4.OptionClientIdentifier, dhcpv4.OptionHostName, dhcpv4.OptionClassIdentifier, dhcpv4.OptionClientMachineIdentifier} {
			if m.Options.Has(option) {
				t.Errorf("DHCP: it has sent option %v: %x", option, m.Options.Get(option))
			}
		}
	}
	return ids
}

// receiptKey is the public key of the machine in the receipt of its job.
var receiptKey = regexp.MustCompile(`"ed25519":\s*"([0-9a-f]{64})"`)

// Two boots of one stick in mode private cannot be told to be of one machine, nothing is sent after the jump, and no
// byte of the stick changes. The card has the same factory address at both boots.
func TestPrivateBootsHaveNoIdentifierInCommon(t *testing.T) {
	t.Parallel()
	l := newLANWithDNS(t)
	publisher := l.host()
	publisher.publish("--dht", "off", "--mdns=false")
	mirror := netip.MustParseAddrPort(publisher.addr + ":8080")
	image, disk := l.image("--default-mode", "private", "--cmdline", "phase.mirror=http://"+mirror.String()), filepath.Join(l.dir, "disk.img")
	must(t, "cp", "--sparse=always", image, disk)

	var ids [2]map[string]bool
	var keys [2]string
	for i := range 2 {
		tap := l.tap()
		wire := l.capture(tap, map[netip.AddrPort]string{mirror: "mirror"})
		m := l.startQEMU(disk, "tap:"+tap)
		jump := m.jumped()
		m.waitFor(bootMarks()[3:], refused)
		m.waitFor([]string{"plasmd: receipt {", `"subject":`, "=="}) // the end of its signature
		m.powerOff()
		packets := wire.all()
		sentOnly(t, packets, allowList(t, "private"))
		if n := count(packets); n["mirror"] < 100 || n["dhcp4"] < 3 {
			t.Errorf("the capture has %v", n)
		}
		if messages := dhcpMessages(t, packets); messages[len(messages)-1].MessageType() != dhcpv4.MessageTypeRelease {
			t.Errorf("the lease was not given back: %v", messages[len(messages)-1])
		}
		silentAfter(t, packets, jump)
		for _, p := range packets {
			if bytes.Contains(p.data, []byte("POST ")) {
				t.Errorf("it has sent a report: %s", p.data)
			}
			if strings.HasPrefix(p.mac, "52:54:00") {
				t.Errorf("it has sent %s from its factory address", p.what)
			}
		}
		ids[i] = identifiers(t, packets)
		text, _ := m.console.since(0)
		if key := receiptKey.FindSubmatch(text); key != nil {
			keys[i] = string(key[1])
		}
		for _, want := range []string{"Initializing machine ID from random generator", "] private: random hardware addresses for "} {
			if !strings.Contains(string(text), want) {
				t.Errorf("the console does not show %q", want)
			}
		}
		unchanged(t, disk, image)
	}
	if list := publisher.machines(); len(list) > 0 {
		t.Errorf("the publisher has boot reports: %+v", list)
	}
	for id := range ids[0] {
		if ids[1][id] {
			t.Errorf("both boots have %s", id)
		}
	}
	if keys[0] == "" || keys[0] == keys[1] {
		t.Errorf("the keys of the receipts are %q", keys)
	}
}

// The table of docs/NETWORK.md holds from the start of the boot kernel until the target has run its job.
func TestAModeSendsOnlyWhatItsTableAllows(t *testing.T) {
	for _, mode := range []string{"internet", "edge", "local"} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			l := newLANWithDNS(t)
			publisher := l.host()
			publisher.publish("--dht", "off")
			addr := netip.MustParseAddr(publisher.addr)
			known := map[netip.AddrPort]string{netip.AddrPortFrom(addr, 8080): "mirror", netip.AddrPortFrom(addr, 0): "peer"}
			image, disk, tap := l.image("--default-mode", mode), filepath.Join(l.dir, "disk.img"), l.tap()
			must(t, "cp", "--sparse=always", image, disk)
			wire := l.capture(tap, known)
			m := l.startQEMU(disk, "tap:"+tap)
			m.waitFor(bootMarks(), refused)
			m.powerOff()
			packets := wire.all()
			sentOnly(t, packets, allowList(t, mode))
			if n := count(packets); n["mdns"] == 0 || n["mirror"]+n["peer"] < 100 {
				t.Errorf("the capture has %v", n)
			}
			if exec.Command("cmp", disk, image).Run() == nil {
				t.Error("the stick has no cache after a boot that may write")
			}
		})
	}
}
