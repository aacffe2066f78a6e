package machine

import (
	"context"
	"errors"

	"golang.org/x/sys/unix"
)

// startEntropy waits in the background until the kernel's random numbers are ready, then closes
// the channel. Without a hardware source, the kernel gathers entropy only while a thread waits
// in getrandom(2), for seconds on a slow machine. The DHCP library polls without waiting and
// would never get any.
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

// waitEntropy is the step that waits for random numbers. Later steps need them for keys and
// transaction numbers.
func (b *boot) waitEntropy(ctx context.Context) (string, error) {
	select {
	case <-b.entropy:
		return "ready", nil
	case <-ctx.Done():
		return "", ctx.Err()
	}
}
