package publisher

import (
	"cmp"
	"context"
	"log/slog"
	"net"
	"net/http"
	"time"

	"github.com/phaseboot/phaseboot/internal/gateway"
	"github.com/phaseboot/phaseboot/internal/limit"
	"github.com/phaseboot/phaseboot/internal/p2p"
	"github.com/phaseboot/phaseboot/publisher/netboot"
)

// Limits bound what clients can take of a daemon. Each holds for plain HTTP and for HTTP
// over streams together, unless its comment says otherwise.
type Limits struct {
	Rate        int64 // bytes of bodies a second, in all; 0 is no limit
	RatePerPeer int64 // the same to one address (an IPv6 /56), for all peers there together
	UploadSlots int   // answers with blocks at once, as in gateway.Options; 0 is no limit
	// Conns are the connections over plain HTTP at once, and as many over libp2p; 0 is
	// DefaultConns. ConnsPerIP of them may come from one IP (an IPv6 /56); 0 is
	// DefaultConnsPerIP.
	Conns, ConnsPerIP int
}

// Default limits: a thousand machines with two connections each, and a classroom behind one
// router.
const (
	DefaultConns       = 2048
	DefaultConnsPerIP  = 256
	DefaultUploadSlots = 32
)

const (
	minRate       = 2 << 10          // bytes a second that a client must read on average …
	minRateAfter  = 30 * time.Second // … after this time
	slotMinRate   = 16 << 10         // the same for a client with an upload slot
	slotMinAfter  = 2 * time.Second
	headerTimeout = 10 * time.Second // for a complete header
	idleTimeout   = 3 * time.Minute  // between two requests
	maxHeader     = 16 << 10         // bytes
)

// maxOwnFiles is how many open files are reserved for packs, metadata and listeners; half of
// the limit where that is less.
const maxOwnFiles = 256

// maxConns is how many connections over plain HTTP, and as many over libp2p, a limit of open
// files allows.
func maxConns(files int) int { return max((files-min(maxOwnFiles, files/2))/2, 1) }

// checkFiles warns of a limit of open files that is too low for the connections.
func (l Limits) checkFiles(log *slog.Logger) {
	want := cmp.Or(max(l.Conns, 0), DefaultConns)
	if used, _ := l.conns(); used < want {
		log.Warn("limit of open files too low for --max-conns", "limit", limit.Files(), "requested", want, "used", used,
			"remedy", "raise it with ulimit -n, or with LimitNOFILE= in the unit")
	}
}

func (l Limits) conns() (all, perIP int) {
	all, perIP = cmp.Or(max(l.Conns, 0), DefaultConns), cmp.Or(max(l.ConnsPerIP, 0), DefaultConnsPerIP)
	if files := limit.Files(); files > 0 {
		all = min(all, maxConns(files))
	}
	return all, perIP
}

func (l Limits) apply(o *p2p.Options) { o.MaxConns, o.MaxConnsPerIP = l.conns() }

// handlers returns the gateway and the route of boot reports for plain HTTP and for streams, behind the same limits.
func (s *server) handlers() (plain, streams http.Handler) {
	bounds := limit.Options{
		Total: s.Limits.Rate, PerClient: s.Limits.RatePerPeer,
		MinRate: minRate, Grace: minRateAfter, OnSlow: func() { s.meter.refuse(refusedSlow) },
	}
	if s.Limits.UploadSlots > 0 { // a slow reader would block the slot
		bounds.MinRate, bounds.Grace = slotMinRate, slotMinAfter
	}
	s.rates = limit.NewRates(bounds)
	h := s.withReports(gateway.Handler(gateway.Options{
		Source: s.source, Metadata: s.source.file, Target: s.source.target,
		IPNS:        func(ctx context.Context, name string) ([]byte, error) { return s.record().Get(ctx, name) },
		UploadSlots: s.Limits.UploadSlots, Fault: s.fault,
	}))
	return s.rates.Handler(s.meter.handler("http", h, s.Log)), s.rates.Handler(s.meter.handler("stream", h, s.Log))
}

// withNetboot adds the files of Netboot to the handler of plain HTTP. Firmware reads them more slowly
// than a machine its blocks, and no upload slot waits for it.
func (s *server) withNetboot(gateway http.Handler) (http.Handler, error) {
	if s.Netboot == "" {
		return gateway, nil
	}
	files, err := netboot.Open(s.Netboot, s.Log)
	if err != nil {
		return nil, err
	}
	mux := http.NewServeMux()
	mux.Handle("/", gateway)
	mux.Handle(netboot.Path, s.rates.PacedHandler(minRate, minRateAfter, s.meter.handler("http", files, s.Log)))
	return mux, nil
}

// listenPlain listens on the address of a flag. It returns nil for "".
func listenPlain(flag, addr string) (net.Listener, error) {
	if addr == "" {
		return nil, nil
	}
	return p2p.ListenTCP(flag, addr)
}
