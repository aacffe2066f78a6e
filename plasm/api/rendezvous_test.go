package api

import "testing"

// Old clients must find new daemons.
func TestTheRendezvousOfARepositoryNeverChanges(t *testing.T) {
	if got := Rendezvous("0123456789abcdef0123456789abcdef").String(); got != "bafkr4igcpf4qxjlxbwlefv6bwgo45k7u2cnh3eep4rbohkxxfmgdisgese" {
		t.Errorf("got %s", got)
	}
}
