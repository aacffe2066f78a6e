package machine

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/phaseboot/phaseboot/internal/netns"
)

func TestAnotherAttemptKeepsTheMountsOfTheFirst(t *testing.T) {
	if !netns.Inside(t) {
		return
	}
	dir := t.TempDir()
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
	for attempt := range 2 {
		if _, err := mountAll([]mount{{"tmpfs", dir, "tmpfs", 0, "size=1m"}}); err != nil {
			t.Fatal(err)
		}
		key := filepath.Join(dir, "machine.key")
		if attempt == 1 && !exists(key) {
			t.Error("a second file system hides the files in the first")
		}
		if err := os.WriteFile(key, nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}
