package machine

import (
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/phaseboot/phaseboot/bootclient/network"
)

// leased is the network of a machine with a lease of one hour.
func leased(now time.Time) network.State {
	until := now.Add(time.Hour)
	prefix, router, server := netip.MustParsePrefix("10.55.0.123/24"), netip.MustParseAddr("10.55.0.1"), netip.MustParseAddr("10.55.0.53")
	return network.State{
		Servers: []netip.Addr{server},
		Interfaces: []network.Interface{{
			Name: "eth0", Kind: "ethernet", MAC: "52:54:00:aa:bb:cc", PermanentMAC: "52:54:00:aa:bb:cc", Link: true, MTU: 1500,
			Addresses: []network.Address{{Prefix: prefix, From: "dhcp4", Until: until}},
			Routes:    []network.Route{{To: netip.MustParsePrefix("0.0.0.0/0"), Via: router, Metric: 100}},
			Servers:   []netip.Addr{server},
			Lease4:    &network.Lease{Server: "10.55.0.1", Address: prefix, Router: router, Domain: "site.example", Hostname: "node7", Until: until},
		}},
	}
}

func named(files []handedFile) map[string]string {
	got := map[string]string{}
	for _, f := range files {
		got[f.name] = string(f.data)
	}
	return got
}

// has fails the test if a text lacks one of the lines.
func has(t *testing.T, text string, lines ...string) {
	t.Helper()
	for _, line := range lines {
		if !strings.Contains("\n"+text, "\n"+line+"\n") {
			t.Errorf("no line %q in:\n%s", line, text)
		}
	}
}

func lacks(t *testing.T, text string, words ...string) {
	t.Helper()
	for _, w := range words {
		if strings.Contains(text, w) {
			t.Errorf("%q in:\n%s", w, text)
		}
	}
}

func TestTheTargetGetsTheAddressOfALeaseWithoutDHCP(t *testing.T) {
	now := time.Now()
	got := named(networkFiles(leased(now), now))
	file := got["network/10-phase-eth0.network"]
	has(t, file, "MACAddress=52:54:00:aa:bb:cc", "DHCP=no", "Address=10.55.0.123/24", "DNS=10.55.0.53", "Domains=site.example", "Destination=0.0.0.0/0", "Gateway=10.55.0.1", "Metric=100", "IPv6AcceptRA=no")
	lacks(t, file, "Name=eth0", "MTUBytes")
	has(t, got["network/renew/10-phase-eth0.network"], "DHCP=ipv4", "Address=10.55.0.123/24", "ClientIdentifier=mac", "SendHostname=no")
	has(t, got["network/renew-after"], "1800")
	has(t, got["network/hostname"], "node7")
	has(t, got["network/resolv.conf"], "nameserver 10.55.0.53", "search site.example")
	has(t, got["network/setup"], "up 52:54:00:aa:bb:cc 1500", "address 52:54:00:aa:bb:cc 10.55.0.123/24", "route 52:54:00:aa:bb:cc 0.0.0.0/0 10.55.0.1 100")
}

func TestAStaticAddressIsNotRenewed(t *testing.T) {
	s := leased(time.Now())
	s.Interfaces[0].Lease4, s.Interfaces[0].Addresses[0].From = nil, "static"
	got := named(networkFiles(s, time.Now()))
	has(t, got["network/10-phase-eth0.network"], "Address=10.55.0.123/24")
	for _, name := range []string{"network/renew-after", "network/renew/10-phase-eth0.network", "network/hostname"} {
		if got[name] != "" {
			t.Errorf("%s: %q", name, got[name])
		}
	}
}

// The boot went on with another address. The server may have started since.
func TestADHCPServerThatDidNotAnswerTheBootIsAskedByTheTarget(t *testing.T) {
	s := leased(time.Now())
	i := &s.Interfaces[0]
	i.Lease4, i.Asks4, i.Addresses = nil, true, []network.Address{{Prefix: netip.MustParsePrefix("169.254.7.9/16"), From: "link-local"}}
	got := named(networkFiles(s, time.Now()))
	has(t, got["network/10-phase-eth0.network"], "DHCP=no", "Address=169.254.7.9/16")
	has(t, got["network/renew/10-phase-eth0.network"], "DHCP=ipv4", "ClientIdentifier=mac", "Address=169.254.7.9/16")
	has(t, got["network/renew-after"], "30")
}

func TestNothingIsHandedOverWithoutAnAddress(t *testing.T) {
	s := leased(time.Now())
	s.Interfaces[0].Addresses = nil
	if got := networkFiles(s, time.Now()); got != nil {
		t.Errorf("%d files", len(got))
	}
}

// Addresses and routes of a router have lifetimes: the target learns them from the router.
func TestAddressesOfARouterAreLearntAnew(t *testing.T) {
	s := leased(time.Now())
	i := &s.Interfaces[0]
	i.Addresses = append(i.Addresses, network.Address{Prefix: netip.MustParsePrefix("2001:db8::5/64"), From: "ra"}, network.Address{Prefix: netip.MustParsePrefix("2001:db8::77/128"), From: "dhcp6"})
	i.Routes = append(i.Routes, network.Route{To: netip.MustParsePrefix("::/0"), Via: netip.MustParseAddr("fe80::1"), Metric: 1024})
	i.Lease6 = &network.Lease{Address: netip.MustParsePrefix("2001:db8::77/128"), Until: time.Now().Add(time.Hour)}
	got := named(networkFiles(s, time.Now()))
	file := got["network/10-phase-eth0.network"]
	has(t, file, "IPv6AcceptRA=yes", "DHCPv6Client=no", "Address=2001:db8::77/128")
	lacks(t, file, "2001:db8::5", "fe80::1")
	has(t, got["network/renew/10-phase-eth0.network"], "DHCPv6Client=yes")
}

func TestVLANsAndBondsAreMadeAgain(t *testing.T) {
	s := leased(time.Now())
	base := s.Interfaces[0]
	bond := base
	bond.Name, bond.Kind, bond.BondMode, bond.Addresses = "bond0", "bond", "active-backup", nil
	first, second := network.Interface{Name: "eth0", Kind: "ethernet", MAC: base.MAC, PermanentMAC: base.MAC, Bond: "bond0"}, network.Interface{Name: "eth1", Kind: "ethernet", MAC: base.MAC, PermanentMAC: "52:54:00:aa:bb:dd", Bond: "bond0"}
	vlan := base
	vlan.Name, vlan.Kind, vlan.VLAN, vlan.Parent, vlan.MTU = "vlan7", "vlan", 7, "bond0", 1400
	s.Interfaces = []network.Interface{vlan, bond, first, second}
	got := named(networkFiles(s, time.Now()))
	has(t, got["network/10-phase-bond0.netdev"], "Kind=bond", "MACAddress="+base.MAC, "Mode=active-backup")
	has(t, got["network/10-phase-bond0.network"], "Name=bond0", "VLAN=vlan7", "LinkLocalAddressing=no")
	has(t, got["network/10-phase-eth1.network"], "PermanentMACAddress=52:54:00:aa:bb:dd", "Bond=bond0")
	has(t, got["network/10-phase-vlan7.netdev"], "Kind=vlan", "Id=7")
	has(t, got["network/10-phase-vlan7.network"], "Name=vlan7", "Address=10.55.0.123/24", "MTUBytes=1400")
	if want := "bond bond0 active-backup " + base.MAC + "\nport " + base.MAC + " bond0\nport 52:54:00:aa:bb:dd bond0\nvlan vlan7 bond0 7\nup vlan7 1400\naddress vlan7 10.55.0.123/24\nroute vlan7 0.0.0.0/0 10.55.0.1 100\n"; got["network/setup"] != want {
		t.Errorf("setup: %q, want %q", got["network/setup"], want)
	}
}

func TestTheOptionsOfABondAreHandedOver(t *testing.T) {
	s := leased(time.Now())
	bond := s.Interfaces[0]
	bond.Name, bond.Kind, bond.BondMode = "bond0", "bond", "802.3ad"
	bond.BondOptions = map[string]string{"lacp_rate": "1", "xmit_hash_policy": "layer3+4", "updelay": "200", "miimon": "50"}
	port := network.Interface{Name: "eth0", Kind: "ethernet", MAC: bond.MAC, PermanentMAC: bond.MAC, Bond: "bond0", Primary: true}
	s.Interfaces = []network.Interface{bond, port}
	got := named(networkFiles(s, time.Now()))
	has(t, got["network/10-phase-bond0.netdev"], "Mode=802.3ad", "LACPTransmitRate=fast", "TransmitHashPolicy=layer3+4", "UpDelaySec=200ms", "MIIMonitorSec=50ms")
	lacks(t, got["network/10-phase-bond0.netdev"], "DownDelaySec")
	has(t, got["network/10-phase-eth0.network"], "Bond=bond0", "PrimarySlave=yes")
	if want := "bond bond0 802.3ad " + bond.MAC + "\noption bond0 miimon 50\noption bond0 updelay 200\noption bond0 lacp_rate 1\noption bond0 xmit_hash_policy layer3+4\nport " + bond.MAC + " bond0 primary\n"; !strings.HasPrefix(got["network/setup"], want) {
		t.Errorf("setup: %q, want %q", got["network/setup"], want)
	}
}

// phase.ip=dhcp6 is for a network whose routers give addresses that must not be used.
func TestATargetOfDHCPv6TakesNoAddressOfARouter(t *testing.T) {
	s := leased(time.Now())
	i := &s.Interfaces[0]
	prefix := netip.MustParsePrefix("2001:db8::77/128")
	i.NoSLAAC, i.Lease4, i.Lease6 = true, nil, &network.Lease{Address: prefix, Until: time.Now().Add(time.Hour)}
	i.Addresses = []network.Address{{Prefix: prefix, From: "dhcp6"}}
	i.Lease6.Domain = "six.example"
	got := named(networkFiles(s, time.Now()))
	has(t, got["network/resolv.conf"], "search six.example")
	has(t, got["network/10-phase-eth0.network"], "IPv6AcceptRA=yes", "UseAutonomousPrefix=no", "DHCPv6Client=no")
	has(t, got["network/renew/10-phase-eth0.network"], "UseAutonomousPrefix=no", "DHCPv6Client=always")
}

// placed hands the network over to a root filesystem with the files, and returns the host name, "" for that
// of the root filesystem, and the folders /run and root.
func placed(t *testing.T, s network.State, files map[string]string) (host, run, root string) {
	t.Helper()
	dir := t.TempDir()
	run, root = filepath.Join(dir, "run"), filepath.Join(dir, "root")
	for _, f := range networkFiles(s, time.Now()) {
		write(t, filepath.Join(dir, f.name), string(f.data))
	}
	handed, err := readState(filepath.Join(dir, stateFile))
	must(t, err)
	write(t, filepath.Join(root, "sbin/init"), "")
	for name, content := range files {
		if to, ok := strings.CutPrefix(content, "-> "); ok {
			must(t, os.MkdirAll(filepath.Dir(filepath.Join(root, name)), 0o755))
			must(t, os.Symlink(to, filepath.Join(root, name)))
			continue
		}
		write(t, filepath.Join(root, name), content)
	}
	host, err = placeNetworkIn(handed, dir, run, root)
	must(t, err)
	return host, run, root
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func write(t *testing.T, path, content string) {
	t.Helper()
	must(t, os.MkdirAll(filepath.Dir(path), 0o755))
	must(t, os.WriteFile(path, []byte(content), 0o644))
}

func TestTheNetworkIsPlacedWhereNetworkdFindsIt(t *testing.T) {
	host, run, root := placed(t, leased(time.Now()), nil)
	if host != "node7" {
		t.Errorf("host name %q", host)
	}
	for _, name := range []string{"systemd/network/10-phase-eth0.network", "systemd/system/phase-lease.service", "systemd/system/timers.target.wants/phase-lease.timer"} {
		if _, err := os.Lstat(filepath.Join(run, name)); err != nil {
			t.Error(err)
		}
	}
	if _, err := os.Stat(filepath.Join(run, "systemd/network/renew")); err == nil {
		t.Error("networkd would read the files of the renewal")
	}
	if to, err := os.Readlink(filepath.Join(root, "etc/resolv.conf")); to != "/run/phase/network/resolv.conf" {
		t.Errorf("resolv.conf is %q, %v", to, err)
	}
}

func TestTheRootFilesystemsOwnSettingsStay(t *testing.T) {
	for name, tt := range map[string]struct {
		files    map[string]string
		host     string
		resolver string // content of root's etc/resolv.conf, "" for none
		inRun    string // the file of /run that has the servers
	}{
		"a host name":             {map[string]string{"etc/hostname": "own\n"}, "", "", ""},
		"an empty host name":      {map[string]string{"etc/hostname": "\n"}, "node7", "", ""},
		"a resolv.conf":           {map[string]string{"etc/resolv.conf": "nameserver 192.0.2.9\n"}, "node7", "nameserver 192.0.2.9\n", ""},
		"systemd-resolved":        {map[string]string{"usr/lib/systemd/systemd-resolved": "x", "etc/resolv.conf": "-> ../run/systemd/resolve/stub-resolv.conf"}, "node7", "", ""},
		"its link without it":     {map[string]string{"etc/resolv.conf": "-> ../run/systemd/resolve/stub-resolv.conf"}, "node7", "", "systemd/resolve/stub-resolv.conf"},
		"a link that leaves /run": {map[string]string{"etc/resolv.conf": "-> /run/../etc/other"}, "node7", "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			host, run, root := placed(t, leased(time.Now()), tt.files)
			if host != tt.host {
				t.Errorf("host name %q, want %q", host, tt.host)
			}
			if data, _ := os.ReadFile(filepath.Join(root, "etc/resolv.conf")); string(data) != tt.resolver {
				t.Errorf("resolv.conf has %q", data)
			}
			data, _ := os.ReadFile(filepath.Join(run, "systemd/resolve/stub-resolv.conf"))
			if strings.Contains(string(data), "nameserver 10.55.0.53") != (tt.inRun != "") {
				t.Errorf("/run has %q", data)
			}
		})
	}
}

// The kernel takes 64 bytes.
func TestALongHostNameIsCutToItsFirstLabel(t *testing.T) {
	for given, want := range map[string]string{
		"node7.":                           "node7",
		"node7." + strings.Repeat("x", 60): "node7",
		strings.Repeat("x", 64):            strings.Repeat("x", 64),
		strings.Repeat("x", 65) + ".site":  "phase-aabbcc",
	} {
		s := leased(time.Now())
		s.Interfaces[0].Lease4.Hostname = given
		if host, _, _ := placed(t, s, nil); host != want {
			t.Errorf("%q: host name %q, want %q", given, host, want)
		}
	}
}

func TestAMachineWithoutAGivenNameIsNamedByItsCard(t *testing.T) {
	s := leased(time.Now())
	s.Interfaces[0].Lease4.Hostname = ""
	if host, _, _ := placed(t, s, nil); host != "phase-aabbcc" {
		t.Errorf("host name %q", host)
	}
}
