package docs

import (
	"os"
	"strings"
	"testing"
)

// large adds a root filesystem of several leaves; the artifacts of beforehand have one each. It is
// the same at each run: a run of random bytes could begin with a leaf of 16 KiB and one of 256 KiB.
const large = `
seq 500000 | head -c 3000000 > artifacts/rootfs
rm release.json
phase-sign release --unchecked --repo repo --channel stable --arch x86_64 --release 1 --kernel artifacts/kernel --initramfs artifacts/initramfs \
    --rootfs artifacts/rootfs --key keys/release --out release.json
`

func TestTheCommandsOfProtocolWorkAsTheyStand(t *testing.T) {
	text, err := os.ReadFile("PROTOCOL.md")
	check(t, err)
	script := beforehand + large
	for _, m := range fence.FindAllStringSubmatch(string(text), -1) {
		script += m[1]
	}
	if strings.Count(script, "curl ") < 8 {
		t.Fatal("PROTOCOL.md has fewer than 8 curl commands")
	}
	work(t, script, "serve.log")
}
