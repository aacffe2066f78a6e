package publisher

import (
	"context"
	"errors"
	"net/http"
	"path/filepath"

	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/internal/bootreport"
	"github.com/phaseboot/phaseboot/internal/gateway"
	"github.com/phaseboot/phaseboot/internal/limit"
	"github.com/phaseboot/phaseboot/publisher/bucket"
	"github.com/phaseboot/phaseboot/publisher/reports"
)

const (
	// ReportsOff is the value of ServeOptions.Reports for a publisher that takes no boot reports.
	ReportsOff = "off"
	// ReportsFile is the name of the database of boot reports in a store.
	ReportsFile = "reports.db"
)

// openReports opens the database of boot reports, in which identity is the peer of this publisher. A store that this user may not write to has none, which is no error:
// the publisher serves all the same.
func (s *server) openReports(ctx context.Context, identity crypto.PrivKey) error {
	if s.Reports == ReportsOff || s.Reports == "" && bucket.Is(s.Store) {
		return nil
	}
	path := s.Reports
	if path == "" {
		path = filepath.Join(s.Store, ReportsFile)
	}
	self, err := peer.IDFromPrivateKey(identity)
	if err != nil {
		return err
	}
	notKept := limit.OnceAnHour(s.Log)
	options := reports.Options{
		Now: s.Now, Publisher: self.String(), Counted: s.meter.countReport, Booted: s.meter.countBoot, Displaced: s.meter.countDisplaced,
		NotKept: func(err error) { notKept.Error("boot reports not kept; machines send them again", "cause", err) },
		Damaged: func(err error) {
			s.Log.Error("boot reports damaged", "cause", err, "remedy", "restart serve: it moves the database away and makes a new one")
		},
	}
	db, err := reports.Open(ctx, path, options)
	if errors.Is(err, cas.ErrCorrupt) {
		if err = s.moveReports(path, err); err == nil {
			db, err = reports.Open(ctx, path, options)
		}
	}
	if err != nil && s.Reports == "" {
		s.Log.Warn("boot reports not taken", "cause", err)
		return nil
	}
	if err != nil {
		return err
	}
	s.reports = db
	return nil
}

// moveReports moves a damaged database away. A file that is named by a flag stays if it may be another one.
func (s *server) moveReports(path string, cause error) error {
	to, err := reports.MoveAside(path, s.Now(), s.Reports == "")
	if err != nil {
		return err
	}
	s.Log.Error("boot reports damaged: moved away, a new database is made", "cause", cause, "moved", to)
	return nil
}

// closeReports closes the database. One whose damage was found is moved away for the next start.
func (s *server) closeReports() {
	path := s.reports.Path()
	_ = s.reports.Close()
	if s.reports.HasDamage() {
		if err := s.moveReports(path, cas.ErrCorrupt); err != nil {
			s.Log.Error("boot reports damaged", "cause", err)
		}
	}
}

// withReports adds the boot reports to the handler of the gateway, and tells machines in each answer that they are taken.
func (s *server) withReports(blocks http.Handler) http.Handler {
	if s.reports == nil {
		return blocks
	}
	mux := http.NewServeMux()
	mux.Handle("/", blocks)
	mux.Handle(bootreport.Path, s.reports.Handler())
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set(gateway.ReportsHeader, gateway.ReportsVersion)
		mux.ServeHTTP(w, r)
	})
}
