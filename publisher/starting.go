package publisher

import (
	"context"
	"crypto/x509"
	"errors"
	"net"
	"net/http"
	"time"

	"github.com/phaseboot/phaseboot/cas"
)

const (
	firstStartWait = time.Second // between two attempts to open the store; it doubles
	lastStartWait  = 30 * time.Second
	longStart      = 5 * time.Second // after which a start is logged
)

// openStore opens the store and what it serves from it. While an object store does not answer, it waits for it. Until it
// is open, the listeners answer 503; the one for operators with the cause.
func (s *server) openStore(ctx context.Context, in listeners) error {
	defer s.answerStarting(in.http, func() string { return "starting" })()
	defer s.answerStarting(in.metrics, func() string {
		if err := s.refreshErr.Load(); err != nil {
			return "starting: " + (*err).Error()
		}
		return "starting: store " + s.Store + " is not open yet"
	})()
	slow := time.AfterFunc(longStart, func() { s.Log.Info("opening the store takes long", "store", s.Store) })
	defer slow.Stop()
	for wait, logged := firstStartWait, ""; ; wait = min(2*wait, lastStartWait) {
		err := s.open(ctx)
		if err == nil || ctx.Err() != nil || !isDown(err) {
			return err
		}
		s.refreshErr.Store(&err)
		if err.Error() != logged {
			logged = err.Error()
			s.Log.Warn("waiting for the object store", "cause", logged)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(wait):
		}
	}
}

// isDown reports whether err is of an object store that may answer later. A wrong certificate stays wrong.
func isDown(err error) bool {
	return errors.Is(err, cas.ErrUnreachable) && !errors.As(err, new(x509.UnknownAuthorityError)) && !errors.As(err, new(x509.HostnameError))
}

// answerStarting answers 503 on a listener until stop is called. The listener remains open for the next server.
func (s *server) answerStarting(l net.Listener, text func() string) (stop func()) {
	tcp, ok := l.(*net.TCPListener)
	if !ok { // there is none
		return func() {}
	}
	web := s.conns.Server(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Retry-After", "10")
		http.Error(w, text(), http.StatusServiceUnavailable)
	}), maxHeader, idleTimeout, s.Log)
	web.SetKeepAlivesEnabled(false)
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = web.Serve(s.conns.OperatorListener(lent{tcp})) // it ends when it is closed
	}()
	return func() {
		web.Close()
		<-done
		tcp.SetDeadline(time.Time{})
	}
}

// lent is a listener whose Close ends Accept and leaves it open.
type lent struct{ *net.TCPListener }

func (l lent) Close() error { return l.SetDeadline(time.Unix(1, 0)) }
