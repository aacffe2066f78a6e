package manifest

import (
	"fmt"
	"time"
)

const (
	// maxStep is how far the date of a timestamp moves the reference time above the machine's
	// clock. It is less than 12 hours, the time that is left of a timestamp of the default expiry
	// when it is renewed: after a publisher's clock was ahead once, machines still accept the
	// timestamps that it signs later.
	maxStep = time.Hour
	// maxZone is more than the error of a clock that shows the local time of another zone.
	maxZone = 24 * time.Hour
)

// referenceTime is the time at which expiry dates are checked: the latest of the clock, the floor,
// the signing date of the release, and that of the timestamp. The last one counts up to maxStep above
// clock and floor, or in full when the release shows that both are more than maxZone behind. It never
// moves back.
type referenceTime struct {
	now       time.Time // zero until start
	source    string    // where now comes from, "" for the clock
	clock     time.Time // the machine's own: the later of Policy's Now and Floor
	timestamp time.Time // the latest date of signing of a timestamp
	stampedBy string    // names that timestamp
	unchecked bool      // no expiry date is checked
}

// start sets the time to the clock, or to the floor if that is later.
func (r *referenceTime) start(clock, floor time.Time) {
	r.advance(clock, "")
	r.advance(floor, "the image")
	r.clock = r.now
}

// advance moves the time forward to t, never back.
func (r *referenceTime) advance(t time.Time, source string) {
	if !r.unchecked && t.After(r.now) {
		r.now, r.source = t.UTC(), source
	}
}

// advanceByTimestamp moves the time to the signing date of a timestamp, at most maxStep above
// the clock: the online key signs that date, and it may be stolen or its clock wrong.
func (r *referenceTime) advanceByTimestamp(t time.Time, source string) {
	if t.After(r.timestamp) {
		r.timestamp, r.stampedBy = t, source
	}
	if limit := r.clock.Add(maxStep); t.After(limit) {
		t = limit
	}
	r.advance(t, source)
}

// advanceByRelease moves the time to a date that release keys have signed. If that date is more
// than maxZone above the clock, the machine has no clock, and the dates of timestamps count in
// full.
func (r *referenceTime) advanceByRelease(t time.Time, source string) {
	r.advance(t, source)
	if t.After(r.clock.Add(maxZone)) {
		r.advance(r.timestamp, r.stampedBy)
	}
}

// futureTimestamp reports a timestamp whose date did not count in full, "" when there is none.
func (r *referenceTime) futureTimestamp() string {
	if !r.timestamp.After(r.now) || r.unchecked {
		return ""
	}
	return fmt.Sprintf("%s: signed at %s, and it is %s: the publisher's clock or this one is wrong; the date counts as %s after this clock",
		r.stampedBy, stamp(r.timestamp), stamp(r.clock), maxStep)
}

// check refuses a file that is expired.
func (r *referenceTime) check(name string, expires time.Time, remedy string) error {
	return checkDate(r.now, r.source, name, expires, remedy)
}

// checkDate refuses a file that is expired at now: from that second on, as in TUF. The zero time
// refuses nothing. source says where now comes from, "" for the clock.
func checkDate(now time.Time, source, name string, expires time.Time, remedy string) error {
	if now.IsZero() || now.Before(expires) {
		return nil
	}
	if source != "" {
		source = " (says " + source + ")"
	}
	return refuse(ErrExpired, "%s: expired on %s, and it is %s%s; %s, or set the clock right",
		name, stamp(expires), stamp(now), source, remedy)
}

func stamp(t time.Time) string {
	return t.UTC().Format("2006-01-02 15:04:05 UTC")
}
