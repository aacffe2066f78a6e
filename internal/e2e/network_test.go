package e2e

import "testing"

// Without a DHCP server, both ends of a cable have link-local addresses.
func TestBootFromTheOtherEndOfACable(t *testing.T) {
	t.Parallel()
	l := newSegment(t, "169.254.7")
	h := l.host()
	must(t, "ip", "-n", h.ns, "addr", "add", h.addr+"/16", "dev", "eth0")
	h.publish("--dht", "off")
	l.boot(fx.path("local.img")).waitFor([]string{"] network: eth0 169.254.", "] resolve: ", "] source: ", "] kexec: "}, refused)
}
