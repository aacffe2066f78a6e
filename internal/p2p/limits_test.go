package p2p

import "testing"

func TestALimitThatIsNotPositiveIsTheDefault(t *testing.T) {
	for _, n := range []int{-1, 0} {
		if all, perIP := (Options{MaxConns: n, MaxConnsPerIP: n}).conns(); all != dialConns || perIP != connsPerIP {
			t.Errorf("%d: %d in all and %d of one address, want %d and %d", n, all, perIP, dialConns, connsPerIP)
		}
	}
}
