package bootclient

import (
	"time"

	"github.com/phaseboot/phaseboot/internal/gateway"
)

const (
	// DefaultTimeout is how long Run looks for a valid release when Config.Timeout is zero.
	DefaultTimeout = 60 * time.Second
	// DefaultPatience is how long Run waits for the next block of a release when
	// Config.Patience is zero.
	DefaultPatience = 5 * time.Minute
)

// timings are the pauses and limits of the rule in docs/PATIENCE.md, whose table has a row
// for each. Tests divide all of them.
type timings struct {
	// the search for a release
	lookAround time.Duration // from the beginning: for a head from the LAN or the DHT
	grace      time.Duration // for a newer head, once a source gave a valid one
	cacheGrace time.Duration // for a newer head, while the cache alone has a valid one
	settle     time.Duration // for another source, once all known ones were refused
	checkLimit time.Duration // for the metadata of one head
	askFirst   time.Duration // before a source is asked again for its head, doubled each time
	askMax     time.Duration // the longest of these pauses

	// a source that fails
	idle      time.Duration // for the next byte of an answer
	failFirst time.Duration // after a transport error, doubled each time
	failMax   time.Duration // the longest of these pauses
	busyMax   time.Duration // the longest Retry-After that is believed
	lackFirst time.Duration // before sources are asked again for what they lacked, doubled each time
	lackMax   time.Duration // the longest of these pauses

	// the cache
	openCache  time.Duration // for a cache partition that was found
	openWanted time.Duration // for a cache that somebody asked for

	// words
	sayAfter time.Duration // without a release or a block, before the console says who is waited for
	sayAgain time.Duration // between two such lines
}

var usual = timings{
	lookAround: 700 * time.Millisecond,
	grace:      500 * time.Millisecond,
	cacheGrace: 5 * time.Second,
	settle:     3 * time.Second,
	checkLimit: 30 * time.Second,
	askFirst:   500 * time.Millisecond,
	askMax:     5 * time.Second,

	idle:      gateway.DefaultIdle,
	failFirst: 100 * time.Millisecond,
	failMax:   5 * time.Second,
	busyMax:   2 * time.Minute,
	lackFirst: time.Second,
	lackMax:   30 * time.Second,

	openCache:  30 * time.Second,
	openWanted: 10 * time.Minute,

	sayAfter: 3 * time.Second,
	sayAgain: 10 * time.Second,
}

// growing is the pause before attempt n+1: first, doubled n times, at most limit.
func growing(first time.Duration, n int, limit time.Duration) time.Duration {
	return min(first<<min(n, 16), limit)
}

// believed is how long a busy source is let be that asks for d.
func (t *timings) retryAfter(d time.Duration) time.Duration {
	return min(max(d, t.failFirst), t.busyMax)
}
