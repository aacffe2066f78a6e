package onion

import "testing"

func TestNamesOfOnionServices(t *testing.T) {
	for host, want := range map[string]bool{
		"name.onion": true, "www.name.ONION.": true,
		"name.example": false, "onion": false, "onion.example": false, "notonion": false, "192.0.2.1": false, "": false,
	} {
		if got := IsName(host); got != want {
			t.Errorf("%q: %t", host, got)
		}
	}
}
