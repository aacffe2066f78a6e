package daemon

import (
	"net/http"
	"sync"
	"time"

	"github.com/phaseboot/phaseboot/internal/limit"
	"github.com/phaseboot/phaseboot/internal/p2p"
	"github.com/phaseboot/phaseboot/internal/refusal"
)

const (
	localUploads   = 16 // submissions that are read at once on the socket
	networkUploads = 8  // and over the network, after their first part
	uploadsOfOne   = 4  // of them of one submitter
	networkFirst   = 64 // submissions whose first part, which has the signature, is read at once over the network
	firstOfOne     = 8  // of them of one client
	fetchers       = 2  // modules that are fetched at once: each takes its length of memory

	faultsPerSecond = 4.0 // refused requests of one client, on average
	faultsAtOnce    = 32

	followers   = 64               // outputs that are followed at once over the network
	followOfOne = 32               // of them by one client
	firstTime   = 10 * time.Second // for the first part of a submission, which has its signature
	leastRate   = 16 << 10         // bytes a second of the other parts, after readGrace
	readGrace   = 15 * time.Second
	writeGrace  = 30 * time.Second // for a client to take a part of an answer
	cancelGrace = 10 * time.Second // for the outcome of a job that is cancelled
)

const submissions = "submissions are being read"

// slots bounds how much is done at once, in all and for one client.
type slots struct {
	what   string
	all    int
	of     int // of one client
	mu     sync.Mutex
	taken  int
	client map[string]int
}

func newSlots(what string, all, of int) *slots {
	return &slots{what: what, all: all, of: of, client: map[string]int{}}
}

// enter takes a slot for a client. The error wraps errBusy if there is none.
func (s *slots) enter(client string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.client[client] >= s.of && s.of < s.all:
		return refusal.New(errBusy, "%d %s of one client, the limit; try again in a moment", s.of, s.what)
	case s.taken >= s.all:
		return refusal.New(errBusy, "%d %s on this machine, the limit; try again in a moment", s.all, s.what)
	}
	s.taken++
	s.client[client]++
	return nil
}

func (s *slots) leave(client string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.taken--
	if s.client[client]--; s.client[client] == 0 {
		delete(s.client, client)
	}
}

// faults bounds the refused requests of clients on the network. A peer whose key is that of a submitter is
// counted by its key, so that others at its address do not shut it out.
type faults struct {
	*limit.Faults
	follow *slots
}

func newFaults() *faults {
	return &faults{limit.NewFaults(faultsPerSecond, faultsAtOnce), newSlots("outputs are followed", followers, followOfOne)}
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
