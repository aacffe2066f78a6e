package gateway

import (
	"bytes"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"strings"
	"time"

	"github.com/ipfs/go-cid"

	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/internal/limit"
)

// The URLs of a TUF repository: its metadata files, and its targets under their names with a hash.
const (
	metadataPath = "/tuf/metadata/"
	targetsPath  = "/tuf/targets/"
)

// targetTurnWaits is how many times slotWait a target may wait for an upload slot, also for its
// next turn. A client of TUF asks no other server and does not continue an answer that was cut short.
const targetTurnWaits = 30

// A File is a file of the store that is served whole or in ranges.
type File struct {
	CID    cid.Cid
	Length int64  // signed, bytes
	SHA256 string // for the Etag
}

// metadata serves /tuf/metadata/NAME. Caches revalidate also the files with a version in their name:
// after the online key was replaced, versions may begin again.
func (h *handler) metadata(w http.ResponseWriter, r *http.Request) error {
	if h.Metadata == nil {
		return fs.ErrNotExist
	}
	data, err := h.Metadata(strings.TrimPrefix(r.URL.Path, metadataPath))
	if err != nil {
		return err
	}
	head := w.Header()
	head.Set("Content-Type", "application/json")
	head.Set("Etag", fmt.Sprintf("%q", cas.Sum(cid.Raw, data)))
	head.Set("Cache-Control", revalidate)
	http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(data))
	return nil
}

// target serves /tuf/targets/DIR/SHA256.NAME. Each block is checked before a byte of it is sent.
func (h *handler) target(w http.ResponseWriter, r *http.Request) error {
	if h.Target == nil {
		return fs.ErrNotExist
	}
	f, err := h.Target(strings.TrimPrefix(r.URL.Path, targetsPath))
	if err != nil {
		return err
	}
	head := w.Header()
	head.Set("Content-Type", "application/octet-stream")
	head.Set("Etag", fmt.Sprintf("%q", f.SHA256))
	head.Set("Cache-Control", immutable)
	ignoreSeveralRanges(r)
	if _, err := cas.Get(r.Context(), h.Source, f.CID); err != nil { // before HEAD and 304 too
		return err
	}
	content := &targetReader{Reader: cas.NewReader(r.Context(), h.Source, f.CID, f.Length), r: r}
	if f.Length >= minSlotBlock {
		content.turn = &turn{slots: h.slots, key: limit.ClientKey(r.RemoteAddr)}
		defer content.turn.end()
	}
	out := &lateHeader{ResponseWriter: w, status: http.StatusOK}
	http.ServeContent(out, r, "", time.Time{}, content)
	switch {
	case content.err == nil:
		out.send()
		return nil
	case out.sent:
		return cutShortError{content.err}
	default:
		return content.err
	}
}

// A targetReader is a cas.Reader that takes an upload slot with the first byte, and lets other
// requests have it after each turn.
type targetReader struct {
	*cas.Reader
	r    *http.Request
	turn *turn // nil for a small file
	err  error // of the slot or the store
}

func (t *targetReader) Read(p []byte) (int, error) {
	if t.err = t.takeTurn(); t.err != nil {
		return 0, t.err
	}
	n, err := t.Reader.Read(p)
	if t.turn != nil {
		t.turn.sent += n
	}
	if err != io.EOF {
		t.err = err
	}
	return n, err
}

// takeTurn waits for the first turn, and for the next one if this one is over.
func (t *targetReader) takeTurn() error {
	if t.turn == nil || t.turn.held && t.turn.sent < turnSize {
		return nil
	}
	t.turn.end()
	return t.turn.wait(t.r.Context(), targetTurnWaits*t.turn.slots.wait)
}

// A lateHeader sends the status with the first byte of the body, so that an error before it has a
// status of its own.
type lateHeader struct {
	http.ResponseWriter
	status int
	sent   bool
}

// WriteHeader keeps the status until send.
func (w *lateHeader) WriteHeader(status int) { w.status = status }

func (w *lateHeader) Write(p []byte) (int, error) {
	w.send()
	return w.ResponseWriter.Write(p)
}

func (w *lateHeader) send() {
	if !w.sent {
		w.sent = true
		w.ResponseWriter.WriteHeader(w.status)
	}
}
