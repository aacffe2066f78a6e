package client

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/internal/refusal"
	"github.com/phaseboot/phaseboot/plasm/api"
)

const (
	maxAsked  = 4096             // questions of one search
	askAtOnce = 32               // peers that are asked at the same time
	askTime   = 5 * time.Second  // for one peer that was found
	dialTime  = 15 * time.Second // for one machine that was named
)

// A Machine is a machine whose daemon answered, or, with Err, one that should have a daemon and did not
// answer.
type Machine struct {
	Name   string
	Info   peer.AddrInfo // empty for the socket of this machine
	Client *Client       // nil if the machine was not reached
	Status api.Status    // as the machine says
	Err    error
}

// Local returns this machine, whose daemon listens on a unix socket.
func Local(ctx context.Context, socket string) Machine {
	m := Machine{Name: socket, Client: Unix(socket)}
	m.Status, m.Err = m.Client.Status(ctx)
	return m
}

// A Choice says which machines are meant: those that are named, and those of the repository that are
// found.
type Choice struct {
	Named  []peer.AddrInfo // without an address, a machine is looked for
	All    bool            // all that are found
	Count  int             // this many that are found; 0 for none
	Search time.Duration   // how long machines are looked for
}

// Machines returns the machines of a choice, each once: the named ones in their order, then those that
// were found, by name. A machine that did not answer has an Err. It is an error if fewer than Count
// machines were found; none is then used.
func (n *Network) Machines(ctx context.Context, c Choice) ([]Machine, error) {
	named := make([]Machine, len(c.Named))
	missing := map[peer.ID]int{}
	var dials sync.WaitGroup
	for i, info := range c.Named {
		named[i] = Machine{Name: NameOf(info), Info: info}
		if len(info.Addrs) == 0 {
			missing[info.ID] = i
			continue
		}
		dials.Go(func() { named[i] = n.ask(ctx, info, dialTime) })
	}
	found, err := n.search(ctx, c, named, missing)
	dials.Wait()
	if err == nil {
		err = ctx.Err()
	}
	return slices.Concat(named, found), err
}

// search fills in the named machines that are missing, and returns those found beside them.
func (n *Network) search(ctx context.Context, c Choice, named []Machine, missing map[peer.ID]int) ([]Machine, error) {
	if !c.All && c.Count == 0 && len(missing) == 0 {
		return nil, nil
	}
	search, stop := context.WithTimeout(ctx, c.Search)
	defer stop()
	for _, i := range missing {
		named[i].Err = refusal.New(cas.ErrUnreachable, "not found in %s; is it on? Name its address, or --root for the DHT, or search longer with --search", c.Search)
	}
	var found []Machine
	for m := range n.Find(search) {
		if i, ok := missing[m.Info.ID]; ok {
			m.Name = named[i].Name
			named[i] = m
			delete(missing, m.Info.ID)
		} else if !slices.ContainsFunc(c.Named, func(info peer.AddrInfo) bool { return info.ID == m.Info.ID }) {
			found = append(found, m)
		}
		if !c.All && len(missing) == 0 && answered(found) >= c.Count {
			break
		}
	}
	if !c.All && c.Count == 0 {
		found = nil
	}
	if n := answered(found); n < c.Count {
		return nil, refusal.New(cas.ErrUnreachable, "%d of %d machines found in %s; start more, or search longer with --search", n, c.Count, c.Search)
	}
	slices.SortFunc(found, func(a, b Machine) int { return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.Info.ID, b.Info.ID)) })
	if !c.All {
		found = leastBusy(found, c.Count)
	}
	return found, nil
}

// answered returns how many machines answered.
func answered(machines []Machine) (n int) {
	for _, m := range machines {
		if m.Err == nil {
			n++
		}
	}
	return n
}

// leastBusy returns the machines that answered and have the fewest jobs for each worker.
func leastBusy(machines []Machine, count int) []Machine {
	machines = slices.DeleteFunc(machines, func(m Machine) bool { return m.Err != nil })
	slices.SortStableFunc(machines, func(a, b Machine) int {
		x, y := a.Status, b.Status
		return cmp.Compare((x.Running+x.Queued)*max(y.Workers, 1), (y.Running+y.Queued)*max(x.Workers, 1))
	})
	return machines[:count]
}

// Find looks for the daemons of the repository until ctx ends, and delivers each machine once: those
// that answer, and those that the DHT names and that do not answer. The channel closes when ctx has
// ended.
func (n *Network) Find(ctx context.Context) <-chan Machine {
	s := &search{n: n, ctx: ctx, out: make(chan Machine), asked: map[peer.ID]bool{}, slots: make(chan struct{}, askAtOnce)}
	go func() {
		defer close(s.out)
		defer s.tasks.Wait()
		s.run()
	}()
	return s.out
}

// A search asks each peer that it finds.
type search struct {
	n     *Network
	ctx   context.Context
	out   chan Machine
	slots chan struct{}
	tasks sync.WaitGroup

	mu    sync.Mutex
	asked map[peer.ID]bool // peers that are being asked or were delivered
	count int              // questions
}

func (s *search) run() {
	var provided <-chan peer.AddrInfo
	if s.n.node.InDHT() && s.n.options.Repository != "" {
		provided = s.n.node.FindProviders(s.ctx, api.Rendezvous(s.n.options.Repository))
	}
	for {
		select {
		case info := <-s.n.node.MDNSPeers():
			s.ask(info, false)
		case info, open := <-provided:
			if open {
				s.ask(info, true)
			} else {
				provided = nil
			}
		case <-s.ctx.Done():
			return
		}
	}
}

// ask asks a peer for its status. announced says that the DHT names it as a daemon of the repository: then it
// is delivered also if it does not answer. A peer of mDNS that does not answer is asked again at its next
// address.
func (s *search) ask(info peer.AddrInfo, announced bool) {
	s.mu.Lock()
	again := s.asked[info.ID] || s.count >= maxAsked
	if !again {
		s.asked[info.ID] = true
		s.count++
	}
	s.mu.Unlock()
	if again {
		return
	}
	s.tasks.Go(func() {
		select {
		case s.slots <- struct{}{}:
			defer func() { <-s.slots }()
		case <-s.ctx.Done():
			return
		}
		m := s.n.ask(s.ctx, info, askTime)
		if m.Err == nil {
			m.Err = s.n.checkRepository(m.Status)
		}
		if m.Err != nil && (!announced || s.ctx.Err() != nil || errors.Is(m.Err, ErrNotADaemon) || errors.Is(m.Err, errReplaced)) {
			s.n.log.Debug("no daemon", "peer", info.ID, "cause", m.Err)
			s.mu.Lock()
			delete(s.asked, info.ID)
			s.mu.Unlock()
			return
		}
		select {
		case s.out <- m:
		case <-s.ctx.Done():
		}
	})
}

// ask dials a peer and asks for its status.
func (n *Network) ask(ctx context.Context, info peer.AddrInfo, limit time.Duration) Machine {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	m := Machine{Name: NameOf(info), Info: info}
	if m.Client, m.Err = n.Dial(ctx, m.Name, info); m.Err == nil {
		m.Status, m.Err = m.Client.Status(ctx)
	}
	return m
}

// checkRepository refuses a machine whose release is of another repository.
func (n *Network) checkRepository(s api.Status) error {
	if want := n.options.Repository; want != "" && (s.Release == nil || s.Release.Repository != want) {
		return fmt.Errorf("a machine of another repository: %w", ErrNotADaemon)
	}
	return nil
}
