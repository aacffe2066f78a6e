package fetch

import "time"

// A pacer limits the average rate of requests. One request goes at the speed of the line. The zero pacer has no limit.
type pacer struct {
	next time.Time // no request before this
}

// mayRequest reports whether a request may begin.
func (p *pacer) mayRequest(now time.Time) bool { return !now.Before(p.next) }

// requested counts the leaves of a request that begins now, at a rate in bytes per second, 0 for no limit.
func (p *pacer) requested(j *job, now time.Time, rate int64) {
	if rate <= 0 {
		return
	}
	var size int64
	for _, i := range j.leaves {
		size += j.download.leaves[i].Size
	}
	if p.next.Before(now) {
		p.next = now
	}
	p.next = p.next.Add(time.Duration(float64(size) / float64(rate) * float64(time.Second)))
}
