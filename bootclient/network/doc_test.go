package network

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"
)

func TestTheDocumentHasTheTimesOfTheCode(t *testing.T) {
	text, err := os.ReadFile("../../docs/NETWORK.md")
	if err != nil {
		t.Fatal(err)
	}
	for name, d := range map[string]time.Duration{
		"firstAddress": firstAddress, "hurryLink": hurryLink, "hurryAddress": hurryAddress, "grace": grace, "nicTimeout": nicTimeout, "dhcpTimeout": dhcpTimeout, "dhcpLater": dhcpLater,
		"dhcpPause": dhcpPause, "arpPause": arpPause, "renewLeast": renewLeast, "checkEvery": checkEvery, "connectTimeout": connectTimeout,
	} {
		if row := fmt.Sprintf("| `%s` | %v |", name, d); !strings.Contains(string(text), row) {
			t.Errorf("docs/NETWORK.md has no row %s", row)
		}
	}
}
