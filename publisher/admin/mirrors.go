package admin

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"sync"
	"time"

	"github.com/ipfs/go-cid"

	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/internal/gateway"
	"github.com/phaseboot/phaseboot/internal/p2p"
	"github.com/phaseboot/phaseboot/internal/refusal"
	"github.com/phaseboot/phaseboot/manifest"
)

const (
	mirrorEvery   = time.Minute
	mirrorTimeout = 15 * time.Second
)

// A mirror is what was learned of a mirror when it was asked last.
type mirror struct {
	URL       string // without user and password
	Asked     time.Time
	Head      string // CID of its metadata folder
	Timestamp int64  // version
	Signed    time.Time
	Expires   time.Time
	Took      time.Duration // of the answer with its record
	Fault     string        // why it is not compared, "" when it is
}

// mirrors asks mirrors for their heads.
type mirrors struct {
	now     func() time.Time
	clients []*gateway.Client
	changed chan struct{} // gets a value after a round

	mu   sync.Mutex
	list []mirror
}

func newMirrors(urls []string, now func() time.Time) *mirrors {
	m := &mirrors{now: now, changed: make(chan struct{}, 1)}
	for _, u := range urls {
		m.clients = append(m.clients, &gateway.Client{Base: u, Redirects: true})
		m.list = append(m.list, mirror{URL: hidePassword(u), Fault: "not asked yet"})
	}
	return m
}

// follow asks all mirrors at the start and every minute until ctx ends.
func (m *mirrors) follow(ctx context.Context, state func(context.Context) (State, error)) {
	for len(m.clients) > 0 {
		s, err := state(ctx)
		var asked sync.WaitGroup
		for i, client := range m.clients {
			asked.Go(func() { m.set(i, m.ask(ctx, client, s, err)) })
		}
		asked.Wait()
		select {
		case m.changed <- struct{}{}:
		default:
		}
		if !sleep(ctx, mirrorEvery) {
			return
		}
	}
}

func (m *mirrors) set(i int, got mirror) {
	m.mu.Lock()
	defer m.mu.Unlock()
	got.URL = m.list[i].URL
	m.list[i] = got
}

// current returns what is known of the mirrors, in the order of their flags.
func (m *mirrors) current() []mirror {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.list)
}

// ask reads the record, and the timestamp in the folder that it names. It checks both signatures.
func (m *mirrors) ask(ctx context.Context, client *gateway.Client, s State, stateErr error) (got mirror) {
	got.Asked = m.now()
	fail := func(err error) mirror {
		got.Fault = refusal.Printable(err.Error())
		return got
	}
	if stateErr != nil {
		return fail(stateErr)
	}
	ctx, cancel := context.WithTimeout(ctx, mirrorTimeout)
	defer cancel()
	begun := time.Now()
	record, err := client.IPNS(ctx, s.IPNS)
	if err != nil {
		return fail(err)
	}
	got.Took = time.Since(begun)
	folder, _, err := p2p.CheckRecord(s.IPNS, record)
	if err != nil {
		return fail(err)
	}
	got.Head = folder.String()
	timestamp, err := readTimestamp(ctx, client, folder)
	if err != nil {
		return fail(err)
	}
	if err := s.Root.CheckDocument(timestamp); err != nil {
		return fail(err)
	}
	got.Timestamp, got.Signed, got.Expires = timestamp.Version(), timestamp.SignedAt(), timestamp.Expires()
	return got
}

func readTimestamp(ctx context.Context, src cas.Source, folder cid.Cid) (*manifest.Document, error) {
	links, err := cas.ReadDir(ctx, src, folder)
	if err != nil {
		return nil, err
	}
	i := slices.IndexFunc(links, func(l cas.Link) bool { return l.Name == "timestamp.json" })
	if i < 0 {
		return nil, fmt.Errorf("metadata folder %s: no timestamp.json in it: %w", folder, fs.ErrNotExist)
	}
	data, err := cas.Get(ctx, src, links[i].CID)
	if err != nil {
		return nil, err
	}
	d, err := manifest.Open(data)
	if err == nil && d.Kind() != manifest.KindTimestamp {
		err = errors.New("timestamp.json: not a timestamp")
	}
	return d, err
}
