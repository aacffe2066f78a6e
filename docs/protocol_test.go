package docs

import (
	"os"
	"strings"
	"testing"
)

// large is an artifact of several leaves, which what OPERATING.md begins with has not.
const large = `
head -c 3000000 /dev/urandom > artifacts/rootfs
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
		t.Fatal("it has no commands")
	}
	work(t, script, "serve.log")
}
