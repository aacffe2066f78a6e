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

// buildTime reads the time when the image was built, in Unix seconds. No boot of the image can
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

// maxClockYears is how many years after the build of its image a clock is believable. A later
// clock was never set: a PC without a battery starts with any date up to 2099.
const maxClockYears = 20

// setClock sets the clock to the build time of the image, if the current time is not plausible.
// The kernel has set the clock from the RTC before.
func setClock(built, now time.Time) (summary string, err error) {
	at, summary := plausibleTime(built, now)
	if at.Equal(now) {
		return summary, nil
	}
	tv := unix.NsecToTimeval(at.UnixNano())
	if err := unix.Settimeofday(&tv); err != nil {
		return "", fmt.Errorf("clock: %w", err)
	}
	return summary, nil
}

// plausibleTime returns now, or the build time of the image if now is before it or more than
// maxClockYears after it.
func plausibleTime(built, now time.Time) (at time.Time, summary string) {
	summary = "RTC " + now.UTC().Format(time.RFC3339)
	switch {
	case now.Before(built):
		summary += " is before the build of this image"
	case now.After(built.AddDate(maxClockYears, 0, 0)):
		summary += fmt.Sprintf(" is more than %d years after the build of this image", maxClockYears)
	default:
		return now, summary
	}
	return built, summary + "; clock set to " + built.UTC().Format(time.RFC3339)
}
