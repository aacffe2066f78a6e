package bootargs

import "testing"

func TestVLANsHaveTheNamesOfDracut(t *testing.T) {
	for value, want := range map[string]VLAN{
		"vlan7:eth0":              {"vlan7", 7, "eth0"},
		"vlan0007:eth0":           {"vlan0007", 7, "eth0"},
		"eth0.7:eth0":             {"eth0.7", 7, "eth0"},
		"bond0.0120:bond0":        {"bond0.0120", 120, "bond0"},
		"v4094:52:54:00:12:34:56": {"v4094", 4094, "52:54:00:12:34:56"},
	} {
		if got, err := ParseVLAN(value); got != want || err != nil {
			t.Errorf("%s: %+v, %v", value, got, err)
		}
	}
	for _, value := range []string{"vlan7", "vlan:eth0", "vlan0:eth0", "vlan4095:eth0", "vlan12345:eth0", "vlan7:", "averylongname-of-7:eth0", "vlan7:vlan7", "v/7:eth0"} {
		if got, err := ParseVLAN(value); err == nil {
			t.Errorf("%s: accepted: %+v", value, got)
		}
	}
}
