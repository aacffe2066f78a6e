package plasm

import (
	"testing"

	"golang.org/x/sys/unix"
)

// A limit that an operator set is not raised, as root could and nobody else can. The test
// takes one that nothing here uses.
func TestALimitIsOnlyLowered(t *testing.T) {
	for _, row := range []struct{ ask, want uint64 }{{1 << 12, 1 << 12}, {1 << 13, 1 << 12}, {1 << 11, 1 << 11}} {
		if err := lower(unix.RLIMIT_MSGQUEUE, row.ask); err != nil {
			t.Fatal(err)
		}
		var now unix.Rlimit
		if err := unix.Getrlimit(unix.RLIMIT_MSGQUEUE, &now); err != nil {
			t.Fatal(err)
		}
		if now.Cur != row.want || now.Max != row.want {
			t.Errorf("asked for %d: %+v, want %d", row.ask, now, row.want)
		}
	}
}
