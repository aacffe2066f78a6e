//go:build machine

package e2e

import (
	"fmt"
	"path/filepath"
	"sync"
	"time"
)

// siteRows are several machines on one network.
var siteRows = []row{
	{
		name: "two-on-a-cable", situation: "two machines on one cable, no DHCP server and no publisher: the first has booted",
		says: []string{"network: eth0 169.254.", "] resolve: stable", "] source: ", "(mdns)"}, ends: "nothing",
		start: func(s *site) {
			s.net = "169.254.7"
			s.ip("addr", "add", s.net+".1/16", "dev", "br0")
			h := s.host()
			must(s.t, "ip", "-n", h.ns, "addr", "add", h.addr+"/16", "dev", "eth0")
			publisher := h.publish("--dht", "off")
			s.on(fx.path("local.img"), s.port(), "-m", "1024")
			s.m.waitFrom(0, []string{"network: eth0 169.254.", started, "phase-boot seed: serving release " + release}, refused)
			publisher.stop()
			must(s.t, "ip", "-n", h.ns, "link", "set", "eth0", "down")
			second := filepath.Join(s.dir, "second.img")
			must(s.t, "cp", "--sparse=always", fx.path("local.img"), second)
			s.again(second, s.port(), "-m", "1024")
		},
	},
	{
		name: "site", situation: "a site after a power cut: 3 machines and 30 clients, the publisher comes 4 minutes late",
		says: []string{"network: eth0 10.55.0.", refused, "tried: mode local", menuShown}, ends: "the publisher starts",
		start: func(s *site) {
			s.dhcp()
			s.until = time.Now().Add(4 * time.Minute)
			all := &fleet{done: map[string]time.Duration{}}
			s.values["fleet"] = all
			for range clients {
				all.client(s)
			}
			for i := range machines {
				disk := filepath.Join(s.dir, fmt.Sprintf("site%d.img", i))
				must(s.t, "cp", "--sparse=always", fx.path("local.img"), disk)
				s.again(disk, s.port(), "-m", "1024")
				all.machines = append(all.machines, s.m)
				if i < machines-1 {
					s.m.waitFrom(0, []string{"network: eth0 10.55.0."}, started) // one after the other: two processors emulate three machines
				}
			}
		},
		remove: func(s *site) {
			all := s.values["fleet"].(*fleet)
			for _, m := range all.machines {
				all.from = append(all.from, m.console.length())
			}
			s.host().publish("--dht", "off")
			all.began = time.Now()
		},
		later: func(s *site, _ int) { s.values["fleet"].(*fleet).arrive(s) },
	},
}

const (
	machines = 3
	clients  = 30
)

// A fleet is the machines and the clients of a site.
type fleet struct {
	machines []*screen
	from     []int // what their consoles had shown when the publisher started
	began    time.Time

	mu   sync.Mutex
	wait sync.WaitGroup
	done map[string]time.Duration
	lost []string
}

// client starts a client, which searches until it finds the release.
func (f *fleet) client(s *site) {
	s.t.Helper()
	h := s.host()
	cmd := h.command(fx.bin("phase-boot"), "fetch", "--root", fx.path("repo/root.json"), "--mode", "local", "--channel", "stable", "--arch", "x86_64",
		"--timeout", "20m", "--patience", "20m", "--out", filepath.Join(s.dir, h.ns))
	log := newConsole()
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { cmd.Process.Kill() })
	f.wait.Go(func() {
		err := cmd.Wait()
		f.mu.Lock()
		defer f.mu.Unlock()
		if err != nil {
			f.lost = append(f.lost, fmt.Sprintf("%s: %v: %s", h.ns, err, log.tail(5)))
			return
		}
		f.done[h.ns] = time.Since(f.began)
	})
}

// arrive waits for all of them, and logs when the last came.
func (f *fleet) arrive(s *site) {
	s.t.Helper()
	var last time.Duration
	for i, m := range f.machines {
		m.waitFrom(f.from[i], []string{started})
		last = time.Since(f.began)
	}
	f.wait.Wait()
	f.mu.Lock()
	defer f.mu.Unlock()
	slowest := time.Duration(0)
	for _, took := range f.done {
		slowest = max(slowest, took)
	}
	for _, words := range f.lost {
		s.t.Error(words)
	}
	fmt.Printf("site: after the publisher's start the last of %d machines jumped in %s, the last of %d clients had the release in %s\n",
		len(f.machines), last.Round(time.Second), len(f.done), slowest.Round(time.Second))
}
