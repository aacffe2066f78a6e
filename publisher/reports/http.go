package reports

import (
	"errors"
	"io"
	"mime"
	"net/http"
	"time"

	"github.com/phaseboot/phaseboot/internal/bootreport"
	"github.com/phaseboot/phaseboot/internal/limit"
	"github.com/phaseboot/phaseboot/manifest"
)

// Handler answers POST of bootreport.Path: 202 when the document is durable, 400 or 403 for a bad one, 429 and 503 with
// Retry-After for one that may be sent again later. Mount it behind limit.Rates, which sets the deadline of a body; this
// handler shortens it when all places are taken.
func (s *Store) Handler() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Content-Type-Options", "nosniff")
		w.Header().Set("Cache-Control", "no-store")
		if r.Method != http.MethodPost {
			w.Header().Set("Allow", http.MethodPost)
			http.Error(w, "method not allowed: use POST", http.StatusMethodNotAllowed)
			return
		}
		if kind, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || kind != bootreport.MediaType {
			http.Error(w, "send a boot report as "+bootreport.MediaType, http.StatusUnsupportedMediaType)
			return
		}
		if r.ContentLength > bootreport.MaxDocument {
			http.Error(w, "boot report: too large", http.StatusRequestEntityTooLarge)
			return
		}
		conn := http.NewResponseController(w)
		place, ok := s.rates.begin(limit.ClientKey(r.RemoteAddr), func() { conn.SetReadDeadline(time.Now()) })
		if !ok {
			s.Counted(Rate)
			later(w, http.StatusTooManyRequests, "too many boot reports: send it again later")
			return
		}
		defer s.rates.end(place)
		data, err := io.ReadAll(http.MaxBytesReader(w, r.Body, bootreport.MaxDocument))
		s.rates.received(place)
		var tooLarge *http.MaxBytesError
		switch {
		case errors.As(err, &tooLarge):
			http.Error(w, "boot report: too large", http.StatusRequestEntityTooLarge)
			return
		case err != nil:
			s.Counted(Rate)
			later(w, http.StatusServiceUnavailable, "boot report: not received in time: send it again later")
			return
		}
		answer(w, s.Add(r.Context(), data, r.RemoteAddr))
	})
}

// answer answers with the outcome of Add.
func answer(w http.ResponseWriter, err error) {
	switch {
	case err == nil:
		w.WriteHeader(http.StatusAccepted)
	case errors.Is(err, manifest.ErrSignature):
		http.Error(w, err.Error(), http.StatusForbidden)
	case errors.Is(err, manifest.ErrMalformed):
		http.Error(w, err.Error(), http.StatusBadRequest)
	case errors.Is(err, ErrRate):
		later(w, http.StatusTooManyRequests, "too many boot reports: send it again later")
	default:
		later(w, http.StatusServiceUnavailable, "boot reports cannot be kept now: send it again later")
	}
}

func later(w http.ResponseWriter, status int, words string) {
	w.Header().Set("Retry-After", "30")
	http.Error(w, words, status)
}
