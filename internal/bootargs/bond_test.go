package bootargs

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

func TestBondsHaveTheSyntaxOfDracut(t *testing.T) {
	for value, want := range map[string]Bond{
		"bond0:eth0,eth1": {Name: "bond0", Members: []string{"eth0", "eth1"}, Mode: "active-backup"},
		"bond0:eth0,52-54-00-12-34-56:mode=4,miimon=50,lacp_rate=fast,xmit_hash_policy=layer3+4:1400": {
			Name: "bond0", Members: []string{"eth0", "52:54:00:12:34:56"}, Mode: "802.3ad", MTU: 1400,
			Options: map[string]string{"miimon": "50", "lacp_rate": "fast", "xmit_hash_policy": "layer3+4"},
		},
		"b:eth0,eth1:mode=active-backup,primary=eth1": {Name: "b", Members: []string{"eth0", "eth1"}, Mode: "active-backup", Options: map[string]string{"primary": "eth1"}},
		"bond0:e1000e::": {Name: "bond0", Members: []string{"e1000e"}, Mode: "active-backup"},
	} {
		got, err := ParseBond(value)
		if diff := cmp.Diff(want, got, cmpopts.EquateEmpty()); diff != "" || err != nil {
			t.Errorf("%s: %v %s", value, err, diff)
		}
	}
	for _, value := range []string{"bond0", ":eth0", "bond0:", "bond0:eth0,", "bond0:eth0:mode=fast", "bond0:eth0:mode=7", "bond0:eth0:miimon=-1", "bond0:eth0:primary=eth1", "bond0:eth0:fail=1", "bond0:eth0::68", "bond0:eth0::1400:x", "bond0:bond0", "bond0:52:54:00:12:34:56"} {
		if got, err := ParseBond(value); err == nil {
			t.Errorf("%s: accepted: %+v", value, got)
		}
	}
}
