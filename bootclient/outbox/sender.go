package outbox

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/phaseboot/phaseboot/bootclient/timing"
	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/internal/bootargs"
	"github.com/phaseboot/phaseboot/internal/bootreport"
	"github.com/phaseboot/phaseboot/internal/gateway"
	"github.com/phaseboot/phaseboot/internal/p2p"
)

// MaxAddresses is how many named and how many heard addresses a Sender tries.
const MaxAddresses = 16

// ErrNoPublisher says that no source of the boot is a publisher that takes boot reports. Another boot may have one.
var ErrNoPublisher = fmt.Errorf("%w: no source of this boot takes boot reports", cas.ErrUnreachable)

// A Sender sends documents to the first publisher that takes them. It is used by one goroutine. Close it.
type Sender struct {
	http  *http.Client
	log   *slog.Logger
	named []string // addresses, the best first; those of no publisher are removed until Retry
	heard []string // the same
	all   [2][]string
	taken []byte // the last document that a heard address has taken
	node  *p2p.Node
	peers map[string]*gateway.Client
}

// NewSender returns a Sender for addresses: URLs below which a publisher has bootreport.Path, and multiaddrs with
// /p2p/ID. A person or root.json gave the named ones, the network the heard ones. web is the client for URLs.
func NewSender(named, heard []string, web *http.Client, log *slog.Logger) *Sender {
	most := func(list []string) []string { return slices.Clone(list[:min(len(list), MaxAddresses)]) }
	s := &Sender{http: web, log: log, all: [2][]string{most(named), most(heard)}, peers: map[string]*gateway.Client{}}
	s.Retry()
	return s
}

// Retry makes the next Send try all addresses again. One that was not that of a publisher may be it later: a publisher
// starts, or the proxy in front of it has answered in its place.
func (s *Sender) Retry() {
	again := func(left, all []string) []string {
		for _, a := range all {
			if !slices.Contains(left, a) {
				left = append(left, a)
			}
		}
		return left
	}
	s.named, s.heard = again(s.named, s.all[0]), again(s.heard, s.all[1])
}

// Close ends the connections to peers.
func (s *Sender) Close() error {
	if s.node == nil {
		return nil
	}
	return s.node.Close()
}

// Send sends a document and returns the address that has taken it. The heard addresses are tried after the named ones.
// A document counts as delivered to a heard address only if no named one is that of a publisher: otherwise the error
// wraps cas.ErrUnreachable, and the next Send of the same document tries the named ones alone.
//
// The error wraps gateway.ErrRejected for a document that a publisher will never take, ErrNoPublisher if no address is
// that of a publisher, and otherwise cas.ErrUnreachable.
func (s *Sender) Send(ctx context.Context, document []byte) (to string, err error) {
	first, cancel := s.limitNamed(ctx)
	defer cancel()
	to, err = s.try(first, &s.named, document)
	if err == nil || errors.Is(err, gateway.ErrRejected) || ctx.Err() != nil || bytes.Equal(document, s.taken) {
		return to, err
	}
	to, heardErr := s.try(ctx, &s.heard, document)
	switch {
	case len(s.named) == 0:
		return to, heardErr
	case heardErr == nil:
		s.taken = document
		return to, fmt.Errorf("%w; %s has taken it, but only the network names that source", err, to)
	}
	return "", err
}

// limitNamed leaves a third of the time to the heard addresses, if there are any.
func (s *Sender) limitNamed(ctx context.Context) (context.Context, context.CancelFunc) {
	end, ok := ctx.Deadline()
	if !ok || len(s.heard) == 0 {
		return ctx, func() {}
	}
	return context.WithTimeout(ctx, time.Until(end)*2/3)
}

// try sends a document to the first of the addresses that takes it. A rejection by a named one ends it; one by a heard
// one, which may be anybody's, counts only if no other is left.
func (s *Sender) try(ctx context.Context, addresses *[]string, document []byte) (to string, err error) {
	var last, rejected error
	for _, address := range slices.Clone(*addresses) {
		err := s.post(ctx, address, document)
		others := slices.DeleteFunc(slices.Clone(*addresses), func(a string) bool { return a == address })
		switch name := bootargs.Redact(address); {
		case err == nil:
			*addresses = slices.Insert(others, 0, address)
			return name, nil
		case errors.Is(err, gateway.ErrRejected):
			rejected = fmt.Errorf("%s: %w", name, err)
			if addresses == &s.named {
				*addresses = slices.Insert(others, 0, address)
				return "", rejected
			}
		case errors.Is(err, fs.ErrNotExist), errors.Is(err, p2p.ErrNoHTTP):
			*addresses = others
		default:
			last = fmt.Errorf("%s: %w", name, err)
		}
		if ctx.Err() != nil {
			break
		}
	}
	switch {
	case last != nil:
		return "", last
	case rejected != nil:
		return "", rejected
	}
	return "", ErrNoPublisher
}

func (s *Sender) post(ctx context.Context, address string, document []byte) error {
	ctx, cancel := context.WithTimeout(ctx, timing.PostLimit)
	defer cancel()
	client := &gateway.Client{Base: address, HTTP: s.http}
	if strings.HasPrefix(address, "/") {
		var err error
		if client, err = s.peer(ctx, address); err != nil {
			return err
		}
	}
	return client.Post(ctx, bootreport.Path, bootreport.MediaType, document)
}

// peer connects to a peer.
func (s *Sender) peer(ctx context.Context, address string) (*gateway.Client, error) {
	if client := s.peers[address]; client != nil {
		return client, nil
	}
	info, err := bootargs.ParsePeer(address)
	if err != nil {
		return nil, err
	}
	if s.node == nil {
		if s.node, err = p2p.New(ctx, p2p.Options{DHT: p2p.DHTOff, Log: s.log}); err != nil {
			return nil, err
		}
	}
	client, err := s.node.Gateway(ctx, info)
	if err == nil {
		s.peers[address] = client
	}
	return client, err
}

// Deliver sends the documents of boxes and removes those that were delivered or rejected. It ends with the first that
// cannot be delivered now. refused is called with the reason for each that was rejected.
func (s *Sender) Deliver(ctx context.Context, refused func(error), boxes ...Box) (sent int, err error) {
	for _, b := range boxes {
		for _, name := range b.Names() {
			document, err := b.read(name)
			if err == nil {
				_, err = s.Send(ctx, document)
			}
			switch {
			case err == nil:
				sent++
			case errors.Is(err, cas.ErrUnreachable):
				return sent, err
			default: // rejected, or not a file of this program
				refused(err)
			}
			_ = b.Remove(name) // of a read-only folder it stays, and a publisher has it once all the same
		}
	}
	return sent, nil
}

// Until calls try with growing pauses until it returns nil or an error that does not wrap cas.ErrUnreachable, or ctx
// ends.
func Until(ctx context.Context, try func() error) error {
	for n := 0; ; n++ {
		err := try()
		if err == nil || !errors.Is(err, cas.ErrUnreachable) || ctx.Err() != nil {
			return err
		}
		select {
		case <-time.After(timing.Growing(timing.ResendFirst, n, timing.ResendMax)):
		case <-ctx.Done():
			return err
		}
	}
}
