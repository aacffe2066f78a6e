package daemon

import (
	"net/http"
	"time"

	"github.com/phaseboot/phaseboot/internal/limit"
	"github.com/phaseboot/phaseboot/internal/p2p"
)

const (
	localUploads   = 16 // submissions that are read at once on the socket
	networkUploads = 8  // and over the network
	fetchers       = 2  // modules that are fetched at once: each takes its length of memory

	faultsPerSecond = 4.0 // refused requests of one client, on average
	faultsAtOnce    = 32

	followers   = 64               // outputs that are followed at once over the network
	firstTime   = 10 * time.Second // for the first part of a submission, which has its signature
	leastRate   = 16 << 10         // bytes a second of the other parts, after readGrace
	readGrace   = 15 * time.Second
	writeGrace  = 30 * time.Second // for a client to take a part of an answer
	cancelGrace = 10 * time.Second // for the outcome of a job that is cancelled
)

// uploads bounds how many submissions are read at once.
type uploads struct{ slots chan struct{} }

func newUploads(n int) *uploads { return &uploads{make(chan struct{}, n)} }

// enter takes a slot, or returns false.
func (u *uploads) enter() bool {
	select {
	case u.slots <- struct{}{}:
		return true
	default:
		return false
	}
}

func (u *uploads) leave() { <-u.slots }

// faults bounds the refused requests of clients on the network. A peer whose key is that of a submitter is
// counted by its key, so that others at its address do not shut it out.
type faults struct {
	*limit.Faults
	follow *uploads
}

func newFaults() *faults {
	return &faults{limit.NewFaults(faultsPerSecond, faultsAtOnce), newUploads(followers)}
}

// client returns the key under which the faults of a request count.
func (d *Daemon) client(r *http.Request) string {
	if key := p2p.RemoteKey(r); key != nil && d.Release != nil {
		if s, ok := d.Release.Submitter(key); ok {
			return "submitter " + s.Name
		}
	}
	return limit.ClientKey(r.RemoteAddr)
}
