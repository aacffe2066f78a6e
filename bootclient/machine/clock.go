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

// clockLimit is how many years after its image was built a machine can boot from it. A later
// clock was never set: without a battery, a PC's clock stands at any date up to 2099.
const clockLimit = 20

// setClock moves a clock that cannot be right, as plausible tells, to the build time of the
// image. The kernel has set the clock from the RTC before. It returns what it did, in words.
func setClock(floor, now time.Time) (words string, err error) {
	at, words := plausible(floor, now)
	if at.Equal(now) {
		return words, nil
	}
	tv := unix.NsecToTimeval(at.UnixNano())
	if err := unix.Settimeofday(&tv); err != nil {
		return "", fmt.Errorf("clock: %w", err)
	}
	return words, nil
}

// plausible returns now, or the build time of the image where now is before it or more than
// clockLimit years after it.
func plausible(built, now time.Time) (at time.Time, words string) {
	words = "the RTC says " + now.UTC().Format(time.RFC3339)
	switch {
	case now.Before(built):
		words += ", before this image was built"
	case now.After(built.AddDate(clockLimit, 0, 0)):
		words += fmt.Sprintf(", more than %d years after this image was built", clockLimit)
	default:
		return now, words
	}
	return built, words + ": taking " + built.UTC().Format(time.RFC3339)
}
