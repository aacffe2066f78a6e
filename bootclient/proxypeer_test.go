package bootclient_test

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/phaseboot/phaseboot/bootclient/report"
	"github.com/phaseboot/phaseboot/internal/cli"
	"github.com/phaseboot/phaseboot/manifest"
)

// A mode with a proxy asks no peer, and the report names each named peer.
func TestAPeerIsNotUsedWithAProxyAndIsReported(t *testing.T) {
	t.Parallel()
	const id = "12D3KooWRQYxvmt7VyfsDzi3oQfqT5Roqm7M7Uom9xwbmYb5Ktrj"
	for _, bootstrap := range []bool{false, true} {
		m, console := newMachine(t, newRepo(t, "us", manifest.Discovery{}), "private"), new(bytes.Buffer)
		m.cfg.Report = report.New(time.Now(), console)
		m.cfg.Mode.Proxy, m.cfg.Timeout, m.cfg.Mirrors = "http://127.0.0.1:1", time.Second, []string{"http://mirror.invalid"}
		named := []string{"/ip4/127.0.0.1/tcp/1/p2p/" + id}
		if m.cfg.Peers = named; bootstrap {
			m.cfg.Peers, m.cfg.Bootstrap = nil, named
		}
		m.refuses(cli.ExitNotFound)
		data, err := json.Marshal(m.cfg.Report)
		ok(t, err)
		for _, said := range []string{console.String(), string(data)} {
			if !strings.Contains(said, id+": not used: the proxy of mode private") {
				t.Errorf("bootstrap %t: not said in %s", bootstrap, said)
			}
		}
	}
}
