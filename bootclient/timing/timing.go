package timing

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

// A Table has the pauses and limits of the rule in docs/PATIENCE.md, whose table has a row and
// the reason for each. Tests divide all of them.
type Table struct {
	// the search for a release
	LookAround time.Duration // from the beginning: for a pointer from the LAN or the DHT
	Grace      time.Duration // for a newer pointer, once a source sent a valid one
	CacheGrace time.Duration // for a newer pointer, while only the cache has a valid one
	Settle     time.Duration // for another source, once all known ones were refused
	CheckLimit time.Duration // for the metadata of one pointer
	AskFirst   time.Duration // before a source is asked again for its pointer, doubled each time
	AskMax     time.Duration // the longest of these pauses

	// a source that fails
	Idle      time.Duration // for the next byte of an answer
	FailFirst time.Duration // after a transport error, doubled each time
	FailMax   time.Duration // the longest of these pauses
	BusyMax   time.Duration // the longest Retry-After that is obeyed
	LackFirst time.Duration // before sources are asked again for missing blocks, doubled each time
	LackMax   time.Duration // the longest of these pauses

	// the cache
	OpenCache  time.Duration // for a cache partition that was found
	OpenWanted time.Duration // for a cache that a person named

	// the console
	SayAfter time.Duration // without a release or a block, before the console prints the status of the sources
	SayAgain time.Duration // between two such lines
}

// Usual is the table of a boot.
var Usual = Table{
	LookAround: 700 * time.Millisecond,
	Grace:      500 * time.Millisecond,
	CacheGrace: 5 * time.Second,
	Settle:     3 * time.Second,
	CheckLimit: 30 * time.Second,
	AskFirst:   500 * time.Millisecond,
	AskMax:     5 * time.Second,

	Idle:      gateway.DefaultIdle,
	FailFirst: 100 * time.Millisecond,
	FailMax:   5 * time.Second,
	BusyMax:   2 * time.Minute,
	LackFirst: time.Second,
	LackMax:   30 * time.Second,

	OpenCache:  30 * time.Second,
	OpenWanted: 10 * time.Minute,

	SayAfter: 3 * time.Second,
	SayAgain: 10 * time.Second,
}

// ThroughTor is the table of a boot through Tor: the first answer of an onion service takes tens of
// seconds, and a circuit that broke is built again meanwhile.
var ThroughTor = func() Table {
	t := Usual
	t.Idle = torTimes * Usual.Idle
	t.CheckLimit = torTimes * Usual.CheckLimit
	return t
}()

// torTimes is how many times longer a boot through Tor waits for an answer.
const torTimes = 6

// TorTimeout is how long a boot through Tor looks for a valid release when Config.Timeout is zero.
const TorTimeout = 5 * time.Minute

// Finding sources. Each row says what the value limits, and after the colon why it is as it is.
const (
	CandidateLimit = 3 * time.Second        // one dial to a candidate peer: time for one lost packet
	CandidatePause = time.Second            // before the next dial to one candidate, doubled to 32 s: thousands of invented ones then cost little
	SearchPause    = time.Second            // after a DHT search without a result, doubled each time: the publisher may be starting
	SearchMaxPause = 5 * time.Second        // the longest of these pauses: as AskMax
	SearchTick     = 50 * time.Millisecond  // between looks at the deadlines of a search: short beside Grace
	Stagger        = 300 * time.Millisecond // without an answer, before more sources are asked for the same metadata block: longer than most round trips
)

// Fetching from one source.
const (
	FetchTick  = 50 * time.Millisecond  // between looks at progress and at stalled requests: short beside HedgeAfter
	RunTime    = 250 * time.Millisecond // intended duration of a run: long beside a round trip, and a stalled run holds few leaves
	FastRun    = 50 * time.Millisecond  // a run that took less: two at a time keep the source busy, and sha256 finds nine of ten leaves in memory
	NearTrip   = 10 * time.Millisecond  // round trip of a near source: a LAN is faster, so that only far ones get a larger window
	HedgeAfter = 250 * time.Millisecond // without a leaf, before another source gets a hedged request: one RunTime
	LastResort = 2 * time.Second        // without a block, before sources of last resort are used: eight times HedgeAfter for the others
)

// Sharing the work among the peers of a swarm. TestASwarmCostsThePublisherLittleMoreThanOneMachine
// measures these values together.
const (
	PollPause       = 150 * time.Millisecond  // between two requests for bitfields to one peer: a dozen leaves at 100 Mbit/s
	PollEach        = 10 * time.Millisecond   // … for each peer, when there are many: at most 100 requests per second
	OriginPause     = time.Second             // before a source without bitfields is asked again: it may become a peer
	HaveLimit       = 2 * time.Second         // one bitfield: at most 128 KiB
	IdlePeer        = 700 * time.Millisecond  // without a new leaf, before other peers own a peer's leaves: several leaves on a shared line
	SilentPeer      = 2 * time.Second         // without an answer, the same: HaveLimit
	JoinGrace       = time.Second             // for the first bitfield of a new peer, during which it counts as active: both would request the same leaves
	FirstBlockLimit = 250 * time.Millisecond  // for a peer's first block, before it counts as snubbed: as HedgeAfter
	StallLimit      = 1500 * time.Millisecond // without a leaf, before a peer loses its request: twice IdlePeer, so that a busy peer is kept
	BackoffFirst    = 5 * time.Second         // backoff of a peer with penalties, doubled to 40 s: it ends well within the patience of a fetch
)

// Serving other machines.
const (
	SlowReader    = 10 * time.Second       // 64 KiB of an answer: a slow reader must not hold an upload slot
	IdleLimit     = time.Minute            // without a request, before a connection is closed: longer than the pauses of a fetch
	DrainLimit    = 500 * time.Millisecond // open answers at the end: a boot does not wait for others
	MetadataLimit = 2 * time.Second        // metadata files that only other machines need, after the fetch: they are small
	LookAgain     = 2 * time.Second        // between looks of a seed for a newer pointer in the cache: a look reads a few small files
	ProvideLoop   = 30 * time.Minute       // between announcements of a seed in the DHT, where they expire
)

// Sending boot reports.
const (
	ReportLimit       = 3 * time.Second  // all documents of a boot that goes on: it does not wait for a publisher that is off
	FailedReportLimit = 10 * time.Second // the same after a failed boot, which has time
	PostLimit         = 5 * time.Second  // one document to one address: as DefaultIdle
	ResendFirst       = 5 * time.Second  // before a target sends again, doubled each time: the publisher may be restarting
	ResendMax         = 10 * time.Minute // the longest of these pauses: a publisher that comes back gets a fleet's reports spread over it
)

// Watching for the next release in a running target.
const (
	WatchFirst = time.Minute // before a round that has failed is repeated, doubled each time up to the usual pause: the publisher may be restarting
)

// The console and the output folder.
const (
	SayBusy = 2 * time.Second // between two lines of a long step: a person sees that it goes on
)

// Growing returns the pause before attempt n+1: first, doubled n times, at most limit.
func Growing(first time.Duration, n int, limit time.Duration) time.Duration {
	return min(first<<min(n, 16), limit)
}

// RetryAfter returns the pause of a busy source that asks for d.
func (t *Table) RetryAfter(d time.Duration) time.Duration {
	return min(max(d, t.FailFirst), t.BusyMax)
}
