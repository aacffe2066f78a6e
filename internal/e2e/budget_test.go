package e2e

import (
	"testing"
)

// initramfsBudget is the largest boot initramfs of flavour vm in bytes: the budget of 10 MB, and some
// room for the next change.
const initramfsBudget = 9_600_000

func TestTheBootInitramfsIsWithinItsBudget(t *testing.T) {
	t.Parallel()
	var image struct {
		Size int64 `json:"initramfs_size"`
	}
	decode(t, must(t, fx.bin("phase-image"), "verify", "--json", fx.path("local.img")), &image)
	if image.Size == 0 || image.Size > initramfsBudget {
		t.Errorf("the initramfs has %d bytes, want at most %d; `go tool nm -size` on phase-boot and /lib/modules show what grew", image.Size, initramfsBudget)
	}
}
