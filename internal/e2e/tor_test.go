package e2e

import (
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

// A torNetwork is a Tor network on a LAN: three directory authorities, which are relays too, three relays and
// an exit. A circuit to an onion service has four relays in a row, one of which Tor may judge too slow.
type torNetwork struct {
	lan    *lan
	dir    string
	common string // options of every Tor in it, with the authorities
	nodes  []host
}

const (
	torORPort  = 5000
	torDirPort = 7000

	torAuthorities = 3
	torRelays      = 7 // with the authorities and the exit
)

// votes are the options of an authority. A consensus takes at least 20 s, the lowest that is safe on a
// busy machine.
const votes = `AuthoritativeDirectory 1
V3AuthoritativeDirectory 1
TestingDirAuthVoteExit *
TestingDirAuthVoteHSDir *
TestingDirAuthVoteGuard *
TestingMinExitFlagThreshold 0
TestingV3AuthInitialVotingInterval 20
TestingV3AuthInitialVoteDelay 4
TestingV3AuthInitialDistDelay 4
V3AuthVotingInterval 20
V3AuthVoteDelay 4
V3AuthDistDelay 4
V3AuthNIntervalsValid 2
`

// newTorNetwork starts a Tor network, and waits until its consensus has every relay.
func newTorNetwork(l *lan) *torNetwork {
	l.t.Helper()
	n := &torNetwork{lan: l, dir: l.t.TempDir(), common: "TestingTorNetwork 1\nPathsNeededToBuildCircuits 0.67\n"}
	var authorities strings.Builder
	for i := range torRelays {
		h := l.host()
		n.nodes = append(n.nodes, h)
		if i < torAuthorities {
			fmt.Fprintf(&authorities, "DirAuthority n%d orport=%d no-v2 %s\n", i, torORPort, n.authority(i, h))
		}
	}
	n.common += authorities.String()
	for i, h := range n.nodes {
		options := fmt.Sprintf("Nickname n%d\nAddress %s\nORPort %d\nAssumeReachable 1\nContactInfo none\nSocksPort 0\n", i, h.addr, torORPort)
		switch {
		case i < torAuthorities:
			options += fmt.Sprintf("DirPort %d\nExitRelay 0\n%s", torDirPort, votes)
		case i < torRelays-1:
			options += "ExitRelay 0\n"
		default:
			options += "ExitRelay 1\nExitPolicy accept *:*\n"
		}
		n.start(h, fmt.Sprint("n", i), options)
	}
	consensus := filepath.Join(n.dir, "n0", "cached-microdesc-consensus")
	for end := time.Now().Add(3 * time.Minute); ; time.Sleep(100 * time.Millisecond) {
		text, _ := os.ReadFile(consensus)
		relays := regexp.MustCompile(`(?m)^s .*\bHSDir\b.*\bRunning\b`).FindAll(text, -1)
		if len(relays) == torRelays {
			return n
		}
		if time.Now().After(end) {
			l.t.Fatalf("%d of %d relays are in the consensus after 3 minutes: %s", len(relays), torRelays, text)
		}
	}
}

// authority makes the keys of an authority and returns the end of its DirAuthority line.
func (n *torNetwork) authority(i int, h host) string {
	t := n.lan.t
	t.Helper()
	dir := filepath.Join(n.dir, fmt.Sprint("n", i))
	keys := filepath.Join(dir, "keys")
	if err := os.MkdirAll(keys, 0o700); err != nil {
		t.Fatal(err)
	}
	at := fmt.Sprintf("%s:%d", h.addr, torDirPort)
	gencert := exec.Command("tor-gencert", "--create-identity-key", "--passphrase-fd", "0", "-m", "12", "-a", at,
		"-i", keys+"/authority_identity_key", "-s", keys+"/authority_signing_key", "-c", keys+"/authority_certificate")
	gencert.Stdin = strings.NewReader("throw-away\n")
	if out, err := gencert.CombinedOutput(); err != nil {
		t.Fatalf("tor-gencert: %v: %s; run: apt-get install tor", err, out)
	}
	v3 := regexp.MustCompile(`(?m)^fingerprint ([0-9A-F]{40})$`).FindSubmatch(readFile(t, keys+"/authority_certificate"))
	nickname := fmt.Sprint("n", i)
	out := must(t, "tor", "--quiet", "--list-fingerprint", "--ignore-missing-torrc", "-f", os.DevNull, "--DataDirectory", dir, "--Nickname", nickname,
		"--ORPort", fmt.Sprint(torORPort), "--Address", h.addr, "--ContactInfo", "none", "--TestingTorNetwork", "1",
		"--DirAuthority", "x 127.0.0.1:1 ffffffffffffffffffffffffffffffffffffffff")
	_, fingerprint, found := strings.Cut(strings.TrimSpace(string(out)), nickname+" ")
	if v3 == nil || !found {
		t.Fatalf("no fingerprints: %q, %q", v3, out)
	}
	return fmt.Sprintf("v3ident=%s %s %s", v3[1], at, fingerprint)
}

// start starts a Tor on a host.
func (n *torNetwork) start(h host, name, options string) *daemon {
	t := n.lan.t
	t.Helper()
	data := filepath.Join(n.dir, name)
	torrc := data + ".torrc"
	if err := os.MkdirAll(data, 0o700); err != nil {
		t.Fatal(err)
	}
	text := n.common + "Log notice stderr\nSafeLogging 0\nShutdownWaitLength 0\nDataDirectory " + data + "\n" + options
	if err := os.WriteFile(torrc, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return n.lan.start(h.ns, "tor", "-f", torrc)
}

// onion makes an onion service in front of a web server of the host, and returns its name. It waits until relays
// have the service's descriptor: a client that asks them too early asks them again only after minutes.
func (n *torNetwork) onion(h host, port int) string {
	t := n.lan.t
	t.Helper()
	service := filepath.Join(n.dir, "service")
	tor := n.start(h, "onion", fmt.Sprintf("Log [rend]info stderr\nSocksPort 0\nHiddenServiceDir %s\nHiddenServicePort 80 %s:%d\n", service, h.addr, port))
	tor.logsAfter(t, 0, "Uploading hidden service descriptor: finished with status 200", 3*time.Minute)
	name := readFile(t, filepath.Join(service, "hostname"))
	return strings.TrimSpace(string(name))
}

// servers returns the addresses at which the relays are contacted.
func (n *torNetwork) servers() map[netip.AddrPort]string {
	known := map[netip.AddrPort]string{}
	for _, h := range n.nodes {
		for _, port := range []uint16{torORPort, torDirPort} {
			known[netip.AddrPortFrom(netip.MustParseAddr(h.addr), port)] = "tor"
		}
	}
	return known
}

// A host fetches a release from an onion service through its Tor, and sends nothing but packets to relays: no DNS
// request, and nothing to the mirror.
func TestFetchThroughTorFromAnOnionService(t *testing.T) {
	t.Parallel()
	l := newLANWithDNS(t)
	tor := newTorNetwork(l)
	publisher := l.host()
	publisher.publish("--dht", "off", "--mdns=false")
	onion := tor.onion(publisher, 8080)

	port := fmt.Sprintf("veth%d", l.next)
	client := l.host()
	must(t, "ip", "netns", "exec", client.ns, "sysctl", "-q", "-w", "net.ipv6.conf.all.disable_ipv6=1")
	wire := l.capture(port, tor.servers())
	tor.start(client, "client", "SocksPort 127.0.0.1:9050\n")
	out := filepath.Join(l.dir, "out")
	if text, err := client.command(fx.bin("phase-boot"), "fetch", "--root", fx.path("repo/root.json"), "--mode", "tor", "--timeout", "3m", "--mirror", "http://"+onion, "--out", out).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, text)
	}
	must(t, "cmp", filepath.Join(out, "rootfs"), fx.path("artifacts/rootfs"))
	packets := wire.all()
	sentOnly(t, packets, allowList(t, "tor"))
	if n := count(packets); n["tor"] < 1000 {
		t.Errorf("the capture has %v", n)
	}
}
