package publisher

import (
	"context"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode"

	"github.com/phaseboot/phaseboot/internal/gateway"
	"github.com/phaseboot/phaseboot/internal/p2p"
	"github.com/phaseboot/phaseboot/publisher/repo"
)

const (
	mirrorInterval = 5 * time.Minute  // between two looks at the mirrors
	mirrorTimeout  = 20 * time.Second // for the record of one
	maxMirrors     = 32               // that are asked; root.json may list more
	maxProblem     = 200              // bytes of a problem
)

// A MirrorState is what a mirror that root.json lists has answered.
type MirrorState struct {
	Mirror  string    `json:"mirror"`           // its address
	Version int64     `json:"version"`          // of the timestamp that its IPNS record points to; 0 without a valid record
	Folder  string    `json:"folder,omitempty"` // CID of that metadata folder
	Problem string    `json:"problem,omitempty"`
	Checked time.Time `json:"checked"`
}

// watchMirrors asks the mirrors that root.json lists for their IPNS record, as a machine does, until ctx ends.
func (s *server) watchMirrors(ctx context.Context) {
	tick := time.NewTicker(mirrorInterval)
	defer tick.Stop()
	for {
		s.askMirrors(ctx)
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

func (s *server) askMirrors(ctx context.Context) {
	r, err := repo.Open(ctx, s.repo.Dir)
	if err != nil {
		r = s.repo // renewalProblems reports the error
	}
	addresses := slices.Compact(slices.Sorted(slices.Values(r.Root.Discovery().HTTPS)))
	addresses = addresses[:min(len(addresses), maxMirrors)]
	states := make([]MirrorState, len(addresses))
	var all sync.WaitGroup
	for i, address := range addresses {
		all.Go(func() { states[i] = s.askMirror(ctx, address) })
	}
	all.Wait()
	if ctx.Err() == nil {
		s.mirrors.Store(&states)
	}
}

// askMirror reads the record of one mirror. The signature of the record is checked; its date is not: machines ignore it too.
func (s *server) askMirror(ctx context.Context, address string) MirrorState {
	ctx, cancel := context.WithTimeout(ctx, mirrorTimeout)
	defer cancel()
	state := MirrorState{Mirror: address, Checked: s.Now().UTC()}
	client := gateway.Client{Base: address, Redirects: true}
	name := s.record().Name
	data, err := client.IPNS(ctx, name)
	if err == nil {
		var version uint64
		folder, version, recordErr := p2p.CheckRecord(name, data)
		if err = recordErr; err == nil {
			state.Version, state.Folder = int64(version), folder.String()
		}
	}
	if err != nil {
		state.Problem = printable(err.Error())
	}
	return state
}

// printable shortens what a mirror may have a part in.
func printable(s string) string {
	s = strings.ToValidUTF8(s[:min(len(s), maxProblem)], "")
	return strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return '?'
		}
		return r
	}, s)
}
