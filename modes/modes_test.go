package modes

import (
	"errors"
	"io/fs"
	"slices"
	"strings"
	"testing"
)

func TestEveryModeLoads(t *testing.T) {
	for _, name := range Names() {
		if _, err := Load(name); err != nil {
			t.Error(err)
		}
	}
	if want := []string{"internet", "edge", "local", "private", "tor"}; !slices.Equal(Names(), want) {
		t.Errorf("modes are %v, want %v", Names(), want)
	}
}

func TestPrivateModeAnnouncesAndStoresNothing(t *testing.T) {
	for _, name := range []string{"private", "tor"} {
		m, err := Load(name)
		if err != nil {
			t.Fatal(err)
		}
		if m.Uses("mdns") || m.Uses("dht") || m.Cache != "off" || m.Announce || !m.RandomMAC || m.Identity != "ephemeral" || m.DHCPMirror {
			t.Errorf("%s is %+v", name, m)
		}
		if m.Report != "" {
			t.Errorf("%s reports to %q", name, m.Report)
		}
		if m.Tor != (name == "tor") {
			t.Errorf("%s: tor is %t", name, m.Tor)
		}
	}
}

func TestOnlyAnImageWithTorHasModesThatNeedIt(t *testing.T) {
	with, without := (Set{}).Available(true), (Set{}).Available(false)
	if !slices.Equal(with, Names()) || slices.Contains(without, "tor") || len(without) != len(with)-1 {
		t.Errorf("with Tor %v, without %v", with, without)
	}
}

func TestTheOtherModesAnnounce(t *testing.T) {
	for _, name := range []string{"internet", "edge", "local"} {
		if m, err := Load(name); err != nil || !m.Announce {
			t.Errorf("%s: announce %t, %v", name, m.Announce, err)
		}
	}
}

func TestTheModesThatHideNothingReport(t *testing.T) {
	for _, name := range []string{"internet", "edge", "local"} {
		if m, err := Load(name); err != nil || m.Report != ReportPublisher {
			t.Errorf("%s: report %q, %v", name, m.Report, err)
		}
	}
}

// Mode edge is internet for a machine that nobody is near to.
func TestOnlyEdgeBootsTheLastGoodReleaseByItself(t *testing.T) {
	for _, name := range Names() {
		m, err := Load(name)
		if err != nil || (m.Stale == "last-good") != (name == "edge") {
			t.Errorf("%s: stale %q, %v", name, m.Stale, err)
		}
	}
	edge, err := Load("edge")
	if err != nil || edge.Cache != "rw" || edge.Retry == 0 || !edge.NoShell {
		t.Errorf("edge is %+v, %v", edge, err)
	}
}

func TestUnknownModeListsTheKnownModes(t *testing.T) {
	for _, name := range []string{"nope", "", "../modes/local", "local.json"} {
		_, err := Load(name)
		if !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), "internet, edge, local, private") {
			t.Errorf("Load(%q) = %v", name, err)
		}
	}
}

func TestBadModesAreRefused(t *testing.T) {
	good := `{"name":"m","title":"M","discovery":["mdns"],"cache":"rw","identity":"ephemeral","announce":false,"proxy":"","stale":"refuse","random_mac":false}`
	if _, err := parse("m", []byte(good)); err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string][2]string{
		"unknown field":     {`"title"`, `"trust":"all","title"`},
		"unknown way":       {`"mdns"`, `"telepathy"`},
		"way named twice":   {`"mdns"`, `"mdns","mdns"`},
		"no way":            {`["mdns"]`, `[]`},
		"unknown cache":     {`"rw"`, `"maybe"`},
		"unknown stale":     {`"refuse"`, `"shrug"`},
		"unknown identity":  {`"ephemeral"`, `"eternal"`},
		"another name":      {`"name":"m"`, `"name":"n"`},
		"no title":          {`"M"`, `""`},
		"restart before":    {`"stale"`, `"retry":-1,"stale"`},
		"Tor, no proxy":     {`"proxy":""`, `"proxy":"","tor":true`},
		"Tor, far proxy":    {`"proxy":""`, `"proxy":"socks5://192.0.2.1:9050","tor":true`},
		"Tor, no port":      {`"proxy":""`, `"proxy":"socks5://127.0.0.1:0","tor":true`},
		"Tor, announces":    {`"announce":false,"proxy":""`, `"announce":true,"proxy":"socks5://127.0.0.1:9050","tor":true`},
		"report to all":     {`"stale"`, `"report":"everybody","stale"`},
		"report, no cache":  {`"cache":"rw"`, `"report":"publisher","cache":"off"`},
		"report, proxy":     {`"proxy":""`, `"report":"publisher","proxy":"socks5://192.0.2.1:1080"`},
		"report, Tor":       {`"announce":false,"proxy":""`, `"report":"publisher","announce":false,"proxy":"socks5://127.0.0.1:9050","tor":true`},
		"report, any MAC":   {`"random_mac":false`, `"report":"publisher","random_mac":true`},
		"too many attempts": {`"stale"`, `"retry":1001,"stale"`},
		"wrong type":        {`"announce":false`, `"announce":"no"`},
		"two values":        {`"random_mac":false}`, `"random_mac":false}{}`},
		"truncated":         {`"random_mac":false}`, ``},
		"not JSON":          {good, `mode = local`},
		"an empty document": {good, ``},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := parse("m", []byte(strings.Replace(good, change[0], change[1], 1))); !errors.Is(err, ErrMalformed) {
				t.Errorf("got %v", err)
			}
		})
	}
}
