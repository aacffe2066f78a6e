package mirror

import (
	"errors"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/publisher/pubtest"
)

func TestALedgerIsReadAsItWasWritten(t *testing.T) {
	target := "tuf/targets/stable/x86_64/job/" + strings.Repeat("0a", 32) + ".hello-1.0+b.wasm"
	l := ledger{"ipfs/bafk": {}, target: {}, "tuf/metadata/timestamp.json": {}, "metadata/1.root.json": time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)}
	path := filepath.Join(t.TempDir(), "ledger")
	pubtest.Check(t, l.write(path))
	if got, err := readLedger(path); err != nil || !maps.EqualFunc(got, l, time.Time.Equal) {
		t.Errorf("%v, %v", got, err)
	}
	sum := strings.Repeat("0a", 32)
	for _, line := range []string{
		"../etc/passwd", "ipfs/../x", "ipfs/", "metadata/../a.json", "metadata/.json", "/ipfs/a", "ipfs/a yesterday", "ipfs/a ", "ipfs/a 0001-01-01T00:00:00Z", "index.html", "",
		"tuf/targets/" + sum + ".kernel", "tuf/targets/../" + sum + ".kernel", "tuf/targets/stable/../" + sum + ".kernel", "tuf/targets/stable/x86_64/kernel", "tuf/targets/stable/" + sum + ".",
	} {
		pubtest.Check(t, os.WriteFile(path, []byte(ledgerTitle+"\n"+line+"\n"), 0o644))
		if _, err := readLedger(path); !errors.Is(err, cas.ErrCorrupt) {
			t.Errorf("%q: %v", line, err)
		}
	}
}

func FuzzLedger(f *testing.F) {
	f.Add(ledgerTitle + "\nipfs/bafk\nmetadata/1.root.json 2026-01-02T03:04:05Z\n")
	f.Fuzz(func(t *testing.T, text string) {
		l, err := parseLedger(strings.NewReader(text))
		if err != nil {
			return
		}
		for path := range l {
			if !filepath.IsLocal(path) || !exportedPath.MatchString(path) {
				t.Errorf("%q would be removed", path)
			}
		}
	})
}
