package machine

import (
	"context"
	"errors"

	"golang.org/x/sys/unix"
)

// startEntropy asks the kernel for random numbers in the background and closes
// the channel when it has them. A machine without a hardware source gathers
// entropy only while somebody waits in getrandom(2), which takes seconds on a slow
// one; the DHCP library spins without waiting, and would never get any.
func startEntropy() <-chan struct{} {
	ready := make(chan struct{})
	go func() {
		defer close(ready)
		var b [1]byte
		for {
			if _, err := unix.Getrandom(b[:], 0); !errors.Is(err, unix.EINTR) {
				return
			}
		}
	}()
	return ready
}

// waitEntropy is the step before anything needs a key or a transaction number.
func (b *boot) waitEntropy(ctx context.Context) (string, error) {
	select {
	case <-b.entropy:
		return "the kernel has gathered enough", nil
	case <-ctx.Done():
		return "", ctx.Err()
	}
}
