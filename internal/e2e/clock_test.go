package e2e

import (
	"testing"
	"time"
)

// A machine boots from a LAN peer with any clock. The image is older than the clock that is one
// day slow, so the image's date does not correct that clock. QEMU's RTC has no century: Linux reads
// its 1970 as 2070, which is too far from the image's date to be used. A wrong but plausible clock
// is in TestAttackOnAMachineWithSavedState: there the metadata are expired, and the refusal names
// the clock.
func TestAWrongClockDoesNotPreventFetchingFromPeers(t *testing.T) {
	t.Parallel()
	now := time.Now()
	l := newLAN(t)
	l.host().publish("--dht", "off")

	booted := []string{"] resolve: stable/x86_64 release " + release, "(mdns)", jump}
	images := map[string]string{"local": fx.path("local.img"), "internet": l.image("--default-mode", "internet")}
	for _, row := range []struct {
		clock, mode string
		at          time.Time
		words       string
	}{
		{"1970", "local", time.Unix(0, 0), "20 years after the build of this image"},
		{"a day behind", "internet", now.Add(-24 * time.Hour), "] clock: RTC 20"},
		{"three hours ahead", "local", now.Add(3 * time.Hour), "] clock: RTC 20"},
		{"2099", "internet", time.Date(2099, 1, 1, 0, 0, 0, 0, time.UTC), "20 years after the build of this image"},
	} {
		t.Run(row.mode+", "+row.clock, func(t *testing.T) {
			on := *l
			on.t = t
			m := on.boot(images[row.mode], "-rtc", "base="+row.at.UTC().Format("2006-01-02T15:04:05"))
			l.next = on.next
			marks := append([]string{row.words}, booted...)
			if row.clock == "2099" {
				marks = append(marks, "Linux version", "] clock: RTC 20", "is more than 20 years after the build of this image; clock set to 20") // the kernel of the target has read the RTC again
			}
			m.waitFor(marks, refused)
			m.powerOff()
		})
	}
}
