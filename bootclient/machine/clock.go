package machine

import (
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// buildTime reads when the image was built, in Unix seconds: no boot of it can
// happen earlier.
func buildTime(file string) (time.Time, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return time.Time{}, fmt.Errorf("build time: %w", err)
	}
	sec, err := strconv.ParseInt(strings.TrimSpace(string(data)), 10, 64)
	if err != nil || sec < 0 {
		return time.Time{}, fmt.Errorf("build time %s: %.20q is not a Unix time: %w", file, data, fs.ErrInvalid)
	}
	return time.Unix(sec, 0).UTC(), nil
}

// setClock moves a clock that is earlier than the image to the image's build
// time. The kernel has set the clock from the RTC before.
func setClock(floor, now time.Time) (words string, err error) {
	if !now.Before(floor) {
		return "the RTC says " + now.UTC().Format(time.RFC3339), nil
	}
	tv := unix.NsecToTimeval(floor.UnixNano())
	if err := unix.Settimeofday(&tv); err != nil {
		return "", fmt.Errorf("clock: %w", err)
	}
	return fmt.Sprintf("the RTC says %s, before this image was built: taking %s",
		now.UTC().Format(time.RFC3339), floor.Format(time.RFC3339)), nil
}
