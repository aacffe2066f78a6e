package gateway

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/ipfs/go-cid"

	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/internal/limit"
)

// Response types, and the values of the format parameter that name them.
const (
	typeRaw  = "application/vnd.ipld.raw"
	typeCAR  = "application/vnd.ipld.car"
	typeIPNS = "application/vnd.ipfs.ipns-record"

	formatRaw  = "raw"
	formatCAR  = "car"
	formatIPNS = "ipns-record"
)

// maxName bounds an IPNS name; the longest that we know is 65 bytes.
const maxName = 128

const (
	stallLimit = 30 * time.Second // for the asker to take the next piece of an answer
	piece      = 128 << 10        // bytes of a body that are written in one go
)

// What caches may keep. Only one form of what never changes is immutable; a CAR, of which
// there are as many as requests, is worth no cache's room; and a path without a format has
// several forms, which a cache that ignores Vary would mix.
const (
	immutable  = "public, max-age=29030400, immutable"
	revalidate = "no-cache"
	neverKept  = "no-store"
)

// Options of a Handler.
type Options struct {
	// Source holds the blocks that are served. It is read through cas.Get. If it is a
	// cas.FileSource, the leaves of a run are sent from its files, each checked when it is
	// sent for the first time, and again after half an hour.
	Source cas.Source
	// IPNS returns the newest record of an IPNS name, or an error that wraps
	// fs.ErrNotExist. Nil serves no names.
	IPNS func(ctx context.Context, name string) ([]byte, error)
	// Have returns the bitmap that /have/ROOT serves, which the handler does not change,
	// and a version that changes with it (letters, digits and dashes); or an error that
	// wraps fs.ErrNotExist for an artifact that is not here. Nil serves no bitmaps.
	Have func(root cid.Cid) (bits []byte, version string, err error)
	// UploadSlots is how many responses with raw blocks of 16 KiB or more, or with a CAR,
	// may be under way at a time; 0 is no limit. When all are taken, a request waits for
	// a second at most, in a line that is fair between clients (an IPv4 address, a /56 of
	// IPv6), none of which gets more than half of the slots; then it
	// is answered 503 with Retry-After. A CAR has its slot for 4 MiB at a time and waits up
	// to four seconds for the next turn; then it is cut short. Smaller blocks, inner nodes,
	// records and bitmaps never wait. A few dozen suit a publisher on a line of 100 Mbit/s or more: fewer
	// slots, and each answer is done sooner, so that a herd has something to share; more,
	// and single machines far away are served better.
	UploadSlots int
	// Sent is called after a response with the bytes of its body. Nil is fine.
	Sent func(bytes int64)
	// Fault is told why the store did not give a block. Nil is fine.
	Fault func(err error)
}

// Handler serves GET and HEAD of /ipfs/ and /ipns/ as a trustless gateway, and /have/.
// An asker that takes less than 128 KiB of an answer in thirty seconds (ten where there
// are upload slots), or announces a body and does not send it, loses its connection.
func Handler(o Options) http.Handler {
	if o.UploadSlots > 0 {
		return newHandler(o, slotStall)
	}
	return newHandler(o, stallLimit)
}

func newHandler(o Options, limit time.Duration) http.Handler {
	h := &handler{Options: o, limit: limit, slots: newSlots(o.UploadSlots, slotWait), memory: newMemory()}
	mux := http.NewServeMux()
	mux.HandleFunc("/ipfs/", h.only(h.ipfs))
	mux.HandleFunc("/ipns/", h.only(h.ipns))
	mux.HandleFunc("/have/", h.only(h.have))
	return h.patient(mux)
}

type handler struct {
	Options
	limit time.Duration // for the asker to take or send something
	slots *slots        // nil: no limit

	memory *memory
}

// patient bounds how long an asker may hold up its connection.
func (h *handler) patient(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		pw := &patientWriter{ResponseWriter: w, conn: http.NewResponseController(w), limit: h.limit}
		pw.extend()
		if r.ContentLength != 0 { // the server waits for a body that nobody reads
			pw.conn.SetReadDeadline(time.Now().Add(h.limit))
		}
		next.ServeHTTP(pw, r)
		pw.extend()
	})
}

// A refusal is an error with the status that the asker gets.
type refusal struct {
	status int
	msg    string
}

func (r *refusal) Error() string { return r.msg }

func refusef(status int, format string, args ...any) error {
	return &refusal{status, fmt.Sprintf(format, args...)}
}

// only lets GET and HEAD through and turns the error of serve into a response.
func (h *handler) only(serve func(http.ResponseWriter, *http.Request) error) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Content-Type-Options", "nosniff")
		w.Header().Set("Vary", "Accept") // of refusals too: 406 depends on it
		if r.Method != http.MethodGet && r.Method != http.MethodHead {
			w.Header().Set("Allow", "GET, HEAD")
			http.Error(w, "method not allowed: use GET or HEAD", http.StatusMethodNotAllowed)
			return
		}
		cw := &countingWriter{ResponseWriter: w}
		if h.Sent != nil && r.Method == http.MethodGet {
			defer func() { h.Sent(cw.n) }() // what was cut short was sent too
		}
		if err := serve(cw, r); err != nil {
			h.fail(cw, r, err)
		}
	}
}

// fail answers with the status of err. After the first byte of a body it can
// only cut the connection, so that the asker sees that something is missing.
func (h *handler) fail(w *countingWriter, r *http.Request, err error) {
	if r.Context().Err() != nil {
		return
	}
	status, msg := http.StatusInternalServerError, "the store cannot give this block"
	var ref *refusal
	switch {
	case errors.As(err, &ref):
		status, msg = ref.status, ref.msg
	case errors.Is(err, fs.ErrNotExist):
		status, msg = http.StatusNotFound, "not found here"
	case errors.Is(err, errBusy):
		status, msg = http.StatusServiceUnavailable, "busy: ask again later, or ask another machine"
		w.Header().Set("Retry-After", "1")
	case errors.Is(err, cas.ErrUnreachable), errors.Is(err, context.DeadlineExceeded):
		status, msg = http.StatusGatewayTimeout, "no answer from the store"
	}
	if status >= 500 && !errors.Is(err, errBusy) && h.Fault != nil {
		h.Fault(err)
	}
	if w.wrote {
		panic(http.ErrAbortHandler)
	}
	for _, k := range []string{"Etag", "Content-Disposition", "Content-Location", "Accept-Ranges"} {
		w.Header().Del(k)
	}
	w.Header().Set("Cache-Control", neverKept) // the block may be here a moment later
	http.Error(w, msg, status)
}

// ipfs serves /ipfs/CID[/PATH].
func (h *handler) ipfs(w http.ResponseWriter, r *http.Request) error {
	first, rest, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/ipfs/"), "/")
	c, err := cas.ParseCID(first)
	if err != nil {
		return refusef(http.StatusBadRequest, "bad CID: %v", err)
	}
	format, params, err := negotiate(r)
	if err != nil {
		return err
	}
	switch {
	case format == formatCAR:
		return h.car(w, r, c, strings.Trim(rest, "/"), params)
	case format != formatRaw:
		return refusef(http.StatusBadRequest, "format %.40q: /ipfs/ serves raw and car", format)
	case rest != "":
		return refusef(http.StatusBadRequest, "a raw block has no path: ask for /ipfs/%s", c)
	}
	return h.raw(w, r, c)
}

func (h *handler) raw(w http.ResponseWriter, r *http.Request, c cid.Cid) error {
	head := w.Header()
	head.Set("Content-Type", typeRaw)
	head.Set("Content-Disposition", fmt.Sprintf("attachment; filename=\"%s.bin\"", c))
	head.Set("Etag", `"`+c.String()+`.raw"`)
	form(w, r, formatRaw, immutable)
	if known(r, head.Get("Etag")) {
		if err := h.has(r.Context(), c); err != nil {
			return err
		}
		w.WriteHeader(http.StatusNotModified)
		return nil
	}
	data, done, err := h.block(r, c)
	if err != nil {
		return err
	}
	defer done()
	if strings.Contains(r.Header.Get("Range"), ",") { // a thousand parts of a byte cost more than the block
		r.Header.Del("Range")
	}
	http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(data))
	return nil
}

// has returns nil if the block is here. A store with an index is not read for it.
func (h *handler) has(ctx context.Context, c cid.Cid) error {
	store, ok := h.Source.(interface {
		Has(ctx context.Context, c cid.Cid) (bool, error)
	})
	if !ok {
		_, err := cas.Get(ctx, h.Source, c)
		return err
	}
	there, err := store.Has(ctx, c)
	if err == nil && !there {
		err = cas.NotFound(c)
	}
	return err
}

// block reads a block. A big leaf takes an upload slot, which done gives back; nothing
// is held in memory while it waits for one.
func (h *handler) block(r *http.Request, c cid.Cid) (data []byte, done func(), err error) {
	data, err = cas.Get(r.Context(), h.Source, c)
	if err != nil || r.Method != http.MethodGet || c.Prefix().Codec != cid.Raw || len(data) < bulkFrom {
		return data, func() {}, err
	}
	who := limit.Asker(r.RemoteAddr)
	done = func() { h.slots.give(who) }
	if h.slots.try(who) {
		return data, done, nil
	}
	data = nil
	if err := h.slots.take(r.Context(), who); err != nil {
		return nil, nil, err
	}
	if data, err = cas.Get(r.Context(), h.Source, c); err != nil {
		done()
	}
	return data, done, err
}

// ipns serves /ipns/NAME. A record changes, so it may be kept only with a check.
func (h *handler) ipns(w http.ResponseWriter, r *http.Request) error {
	name := strings.TrimPrefix(r.URL.Path, "/ipns/")
	format, _, err := negotiate(r)
	if err != nil {
		return err
	}
	if format != formatIPNS || name == "" || len(name) > maxName || strings.Contains(name, "/") {
		return refusef(http.StatusBadRequest, "ask for /ipns/NAME?format=ipns-record")
	}
	if h.IPNS == nil {
		return refusef(http.StatusNotFound, "no names here")
	}
	rec, err := h.IPNS(r.Context(), name)
	if err != nil {
		return err
	}
	etag := `"` + cas.Sum(cid.Raw, rec).String() + `.ipns-record"`
	head := w.Header()
	head.Set("Content-Type", typeIPNS)
	head.Set("Content-Disposition", fmt.Sprintf("attachment; filename=\"%s.ipns-record\"", url.PathEscape(name)))
	head.Set("Etag", etag)
	form(w, r, formatIPNS, revalidate)
	http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(rec))
	return nil
}

// form says in which form of the resource the answer is. Only one whose format is in the
// query may be kept as keep says: without, it depends on Accept, and Content-Location names
// the URL of this form, with params (names and values) that Accept may have named.
// https://specs.ipfs.tech/http-gateways/path-gateway/#content-location-response-header
func form(w http.ResponseWriter, r *http.Request, format, keep string, params ...string) {
	head := w.Header()
	head.Set("Vary", "Accept")
	q := r.URL.Query()
	if q.Get("format") == "" {
		q.Set("format", format)
		for i := 0; i < len(params); i += 2 {
			q.Set(params[i], params[i+1])
		}
		head.Set("Content-Location", r.URL.EscapedPath()+"?"+q.Encode())
		if keep == immutable {
			keep = revalidate
		}
	}
	head.Set("Cache-Control", keep)
}

// known reports whether the asker has this version, or would be content with any.
func known(r *http.Request, etag string) bool {
	for tag := range strings.SplitSeq(r.Header.Get("If-None-Match"), ",") {
		tag = strings.TrimPrefix(strings.TrimSpace(tag), "W/")
		if tag == strings.TrimPrefix(etag, "W/") || tag == "*" {
			return true
		}
	}
	return false
}

// patientWriter writes a body in pieces and gives the asker the limit for each.
type patientWriter struct {
	http.ResponseWriter
	conn  *http.ResponseController
	limit time.Duration
}

// extend moves the deadline. A test's recorder has none, and is as well without.
func (w *patientWriter) extend() { w.conn.SetWriteDeadline(time.Now().Add(w.limit)) }

func (w *patientWriter) Write(p []byte) (int, error) {
	sent := 0
	for len(p)-sent > piece {
		w.extend()
		n, err := w.ResponseWriter.Write(p[sent : sent+piece])
		if sent += n; err != nil {
			return sent, err
		}
	}
	w.extend()
	n, err := w.ResponseWriter.Write(p[sent:])
	return sent + n, err
}

// ReadFrom lets a file go out without a copy, one piece of it.
func (w *patientWriter) ReadFrom(r io.Reader) (int64, error) {
	w.extend()
	return io.Copy(w.ResponseWriter, r)
}

// Unwrap lets http.ResponseController reach the connection.
func (w *patientWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// countingWriter counts the bytes of a body and knows whether it has begun.
type countingWriter struct {
	http.ResponseWriter
	n     int64
	wrote bool
}

func (w *countingWriter) WriteHeader(status int) {
	w.wrote = true
	w.ResponseWriter.WriteHeader(status)
}

// ReadFrom lets a file go out without a copy, and spares io.Copy a new buffer for every
// block.
func (w *countingWriter) ReadFrom(r io.Reader) (n int64, err error) {
	w.wrote = true
	if isFile(r) {
		n, err = io.Copy(w.ResponseWriter, r)
		w.n += n
		return n, err
	}
	lent := pieces.Get().(*[piece]byte)
	defer pieces.Put(lent)
	return io.CopyBuffer(struct{ io.Writer }{w}, r, lent[:])
}

// isFile reports whether r is a piece of a file.
func isFile(r io.Reader) bool {
	l, ok := r.(*io.LimitedReader)
	if !ok {
		return false
	}
	_, ok = l.R.(*os.File)
	return ok
}

var pieces = sync.Pool{New: func() any { return new([piece]byte) }}

func (w *countingWriter) Write(p []byte) (int, error) {
	w.wrote = true
	n, err := w.ResponseWriter.Write(p)
	w.n += int64(n)
	return n, err
}

// Unwrap lets http.ResponseController reach the connection.
func (w *countingWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }
