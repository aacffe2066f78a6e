package docs

import (
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/phaseboot/phaseboot/internal/bootargs"
)

// The examples of NETWORK.md, which are code spans.
func TestArgumentsOfNetworkDocumentAreAccepted(t *testing.T) {
	text, err := os.ReadFile("NETWORK.md")
	check(t, err)
	seen := map[string]int{}
	for _, m := range regexp.MustCompile("`((?:phase\\.(?:ip|interface|vlan|bond|proxy)|ip)=[^`]+)`").FindAllStringSubmatch(string(text), -1) {
		if _, err := bootargs.Check(m[1]); err != nil {
			t.Errorf("%s: %v", m[1], err)
		}
		name, _, _ := strings.Cut(m[1], "=")
		seen[name]++
	}
	for _, name := range []string{"phase.ip", "phase.interface", "phase.vlan", "phase.bond", "phase.proxy"} {
		if seen[name] == 0 {
			t.Errorf("no example of %s=", name)
		}
	}
	for _, method := range []string{"any", "on", "dhcp", "auto6", "dhcp6", "link-local", "off", "none"} {
		if _, err := bootargs.ParseIP(method); err != nil || !strings.Contains(string(text), "`"+method+"`") {
			t.Errorf("method %s: %v, or not in the table", method, err)
		}
	}
}
