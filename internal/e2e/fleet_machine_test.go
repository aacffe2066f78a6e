//go:build machine

package e2e

import (
	"path/filepath"
	"strings"
	"testing"
)

// One command runs a job on all machines of a fleet. A machine that is off is named, and the exit code says it.
func TestMachineFleetRunsAJob(t *testing.T) {
	t.Parallel()
	l := newLAN(t)
	l.dhcp()
	p, key := l.operated()
	var machines []*machine
	var named []string
	for range 3 {
		m := l.boot(fx.path("local.img"))
		_, peer := m.takesJobs()
		machines, named = append(machines, m), append(named, "--machine", "/ip4/"+m.address()+"/tcp/4002/p2p/"+peer)
	}
	job, dir := fx.bin("jobs/primes.wasm"), t.TempDir()
	operator := l.host()
	out, err := operator.command(fx.bin("plasmd"), "submit", "--all", "--root", p.at("repo/root.json"), "--key", key, "--receipts", dir, job, "--", "10000").CombinedOutput()
	if err != nil || strings.Count(string(out), "1229 primes below 10000") != 3 {
		t.Fatalf("%v\n%s", err, out)
	}
	if receipts, err := filepath.Glob(filepath.Join(dir, "*.json")); err != nil || len(receipts) != 3 {
		t.Errorf("receipts: %q, %v", receipts, err)
	}
	machines[1].powerOff()
	out, err = operator.command(fx.bin("plasmd"), append(append([]string{"submit", "--key", key}, named...), job, "--", "10000")...).CombinedOutput()
	t.Logf("one machine is off: %v\n%s", err, out)
	if err == nil || strings.Count(string(out), "1229 primes below 10000") != 2 {
		t.Errorf("%v", err)
	}
}
