package main

import (
	"os"
	"path/filepath"
	"testing"
)

// The boot mode says whether the daemon may be found on the network and may write to a disk. The file of a mode counts,
// not the name in it: an image may have another mode with the name of a shipped one.
func TestTheBootModeDecidesAboutNetworkAndDisk(t *testing.T) {
	const rest = `"title":"T","discovery":["mdns"],"identity":"ephemeral","stale":"refuse","random_mac":false,"dhcp_mirror":false`
	for name, c := range map[string]struct {
		mode, file        string
		announce, private bool
	}{
		"none":                                 {},
		"shipped":                              {mode: "local", announce: true},
		"shipped, private":                     {mode: "private", private: true},
		"file with the name of a shipped mode": {file: `{"name":"local","cache":"rw","announce":false,"proxy":"",` + rest + `}`},
		"file of another mode":                 {file: `{"name":"showroom","cache":"off","announce":true,"proxy":"",` + rest + `}`, announce: true, private: true},
	} {
		t.Run(name, func(t *testing.T) {
			s := &server{serveFlags: serveFlags{mode: c.mode}}
			if c.file != "" {
				s.mode = filepath.Join(t.TempDir(), "mode.json")
				if err := os.WriteFile(s.mode, []byte(c.file), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			if err := s.readMode(); err != nil || s.announce != c.announce || s.private != c.private {
				t.Errorf("announced %v, private %v, %v", s.announce, s.private, err)
			}
		})
	}
}
