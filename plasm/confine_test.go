package plasm

import (
	"testing"

	"golang.org/x/sys/unix"
)

// confine does not raise a limit that an operator has set. The test changes a limit that nothing here uses.
func TestALimitIsOnlyLowered(t *testing.T) {
	for _, row := range []struct{ limit, want uint64 }{{1 << 12, 1 << 12}, {1 << 13, 1 << 12}, {1 << 11, 1 << 11}} {
		if err := lower(unix.RLIMIT_MSGQUEUE, row.limit); err != nil {
			t.Fatal(err)
		}
		var now unix.Rlimit
		if err := unix.Getrlimit(unix.RLIMIT_MSGQUEUE, &now); err != nil {
			t.Fatal(err)
		}
		if now.Cur != row.want || now.Max != row.want {
			t.Errorf("limit %d: %+v, want %d", row.limit, now, row.want)
		}
	}
}
