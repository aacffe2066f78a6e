package e2e

import (
	"os"
	"testing"
)

// The proxies of the rows http-proxy and socks-proxy of docs/MATRIX.md carry a request to a server, which answers it.
func TestTheProxiesOfTheMatrix(t *testing.T) {
	t.Parallel()
	l := newSegment(t, "10.55.0")
	h, via := l.host(), l.host()
	h.publish("--dht", "off", "--mdns=false")
	block := "http://" + h.addr + ":8080/ipfs/" + leaves(t, "kernel")[0] + "?format=raw"
	for kind, at := range map[string]string{"http": via.addr + ":3128", "socks5": via.addr + ":1080"} {
		via.serve(fx.bin("proxy"), kind, at)
		if out, err := l.host().command("curl", "-fsS", "-o", os.DevNull, "-x", kind+"://"+at, block).CombinedOutput(); err != nil {
			t.Errorf("%s: %v: %s", kind, err, out)
		}
	}
}
