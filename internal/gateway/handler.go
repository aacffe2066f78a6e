package gateway

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/url"
	"strings"
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

// maxName bounds an IPNS name; the longest known one has 65 bytes.
const maxName = 128

// Values of Cache-Control. Only a URL with one representation that never changes is immutable. A
// CAR is not stored: there are as many as requests. A path without a format parameter has
// several representations, which a cache that ignores Vary would confuse: it is revalidated.
const (
	immutable  = "public, max-age=29030400, immutable"
	revalidate = "no-cache"
	noStore    = "no-store"
)

// Options of a Handler.
type Options struct {
	// Source holds the blocks that are served. It is read through cas.Get. If it is a
	// cas.FileSource, the leaves of a run are sent from its files; see the package comment
	// for when they are checked.
	Source cas.Source
	// IPNS returns the newest record of an IPNS name, or an error that wraps
	// fs.ErrNotExist. Nil serves no names.
	IPNS func(ctx context.Context, name string) ([]byte, error)
	// Have returns the bitmap that /have/ROOT serves, which the handler does not change,
	// and a version that changes with it (letters, digits and dashes); or an error that
	// wraps fs.ErrNotExist for an unknown artifact. Nil serves no bitmaps.
	Have func(root cid.Cid) (bits []byte, version string, err error)
	// Metadata returns the file that /tuf/metadata/NAME serves, and Target the file that
	// /tuf/targets/PATH serves; or an error that wraps fs.ErrNotExist. Nil serves none.
	Metadata func(name string) ([]byte, error)
	Target   func(path string) (File, error)
	// UploadSlots is how many responses with raw blocks of 16 KiB or more, or with a CAR,
	// may be in progress at a time; 0 is no limit. If all are taken, a request waits for at
	// most a second in a queue that is fair between clients (an IPv4 address, a /56 of
	// IPv6), and is then answered 503 with Retry-After. No client gets more than half of the
	// slots. A CAR keeps its slot for 4 MiB at a time and waits up to four seconds for the
	// next one; then it is cut short. So does a target, which waits longer. Smaller blocks, inner nodes, records and bitmaps never
	// wait. A few dozen slots suit a publisher on a line of 100 Mbit/s or more. With fewer
	// slots each answer is done sooner, so that the machines of a swarm have something to
	// share; with more, single machines far away are served better.
	UploadSlots int
	// Fault is called with the reason why the store did not return a block. Nil is fine.
	Fault func(err error)
}

// Handler serves GET and HEAD of /ipfs/, /ipns/, /have/ and /tuf/. It sets no deadlines: mount it behind
// limit.Rates, which ends the answers to slow clients.
func Handler(o Options) http.Handler {
	h := &handler{Options: o, slots: newSlots(o.UploadSlots, slotWait), cache: newCache()}
	mux := http.NewServeMux()
	mux.HandleFunc("/ipfs/", h.get(h.ipfs))
	mux.HandleFunc("/ipns/", h.get(h.ipns))
	mux.HandleFunc("/have/", h.get(h.have))
	mux.HandleFunc(metadataPath, h.get(h.metadata))
	mux.HandleFunc(targetsPath, h.get(h.target))
	return mux
}

type handler struct {
	Options
	slots *slots
	cache *cache
}

// A statusError is an error with the status of its response.
type statusError struct {
	status int
	msg    string
}

func (e *statusError) Error() string { return e.msg }

func statusErrorf(status int, format string, args ...any) error {
	return &statusError{status, fmt.Sprintf(format, args...)}
}

// A cutShortError is an error that occurred after the first byte of a body.
type cutShortError struct{ error }

func (e cutShortError) Unwrap() error { return e.error }

// get returns a handler for GET and HEAD that turns the error of serve into a response.
func (h *handler) get(serve func(http.ResponseWriter, *http.Request) error) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Content-Type-Options", "nosniff")
		w.Header().Set("Vary", "Accept") // of errors too: 406 depends on it
		if r.Method != http.MethodGet && r.Method != http.MethodHead {
			w.Header().Set("Allow", "GET, HEAD")
			http.Error(w, "method not allowed: use GET or HEAD", http.StatusMethodNotAllowed)
			return
		}
		if err := serve(w, r); err != nil {
			h.fail(w, r, err)
		}
	}
}

// fail answers with the status of err. After the first byte of a body it can only close the
// connection, so that the client sees that the answer is incomplete.
func (h *handler) fail(w http.ResponseWriter, r *http.Request, err error) {
	if r.Context().Err() != nil {
		return
	}
	status, msg := http.StatusInternalServerError, "the store cannot give this block"
	var own *statusError
	switch {
	case errors.As(err, &own):
		status, msg = own.status, own.msg
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
	if errors.As(err, new(cutShortError)) {
		panic(http.ErrAbortHandler)
	}
	for _, k := range []string{"Etag", "Content-Disposition", "Content-Location", "Content-Range", "Accept-Ranges"} {
		w.Header().Del(k)
	}
	w.Header().Set("Cache-Control", noStore) // the block may arrive a moment later
	http.Error(w, msg, status)
}

// ipfs serves /ipfs/CID[/PATH].
func (h *handler) ipfs(w http.ResponseWriter, r *http.Request) error {
	first, rest, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/ipfs/"), "/")
	c, err := cas.ParseCID(first)
	if err != nil {
		return statusErrorf(http.StatusBadRequest, "bad CID: %v", err)
	}
	format, params, err := negotiate(r)
	if err != nil {
		return err
	}
	switch {
	case format == formatCAR:
		return h.car(w, r, c, strings.Trim(rest, "/"), params)
	case format != formatRaw:
		return statusErrorf(http.StatusBadRequest, "format %.40q: /ipfs/ serves raw and car", format)
	case rest != "":
		return statusErrorf(http.StatusBadRequest, "a raw block has no path: ask for /ipfs/%s", c)
	}
	return h.raw(w, r, c)
}

func (h *handler) raw(w http.ResponseWriter, r *http.Request, c cid.Cid) error {
	head := w.Header()
	head.Set("Content-Type", typeRaw)
	head.Set("Content-Disposition", fmt.Sprintf("attachment; filename=\"%s.bin\"", c))
	head.Set("Etag", `"`+c.String()+`.raw"`)
	setCaching(w, r, formatRaw, immutable)
	if matchesETag(r, head.Get("Etag")) {
		if _, err := cas.Get(r.Context(), h.Source, c); err != nil {
			return err
		}
		w.WriteHeader(http.StatusNotModified)
		return nil
	}
	data, release, err := h.block(r, c)
	if err != nil {
		return err
	}
	defer release()
	ignoreSeveralRanges(r)
	http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(data))
	return nil
}

// ignoreSeveralRanges makes a request for several ranges one for the whole: a thousand ranges of a byte cost more.
func ignoreSeveralRanges(r *http.Request) {
	if strings.Contains(r.Header.Get("Range"), ",") {
		r.Header.Del("Range")
	}
}

// block reads a block. A large leaf takes an upload slot until release is called. The block is
// not held in memory while the request waits for a slot.
func (h *handler) block(r *http.Request, c cid.Cid) (data []byte, release func(), err error) {
	data, err = cas.Get(r.Context(), h.Source, c)
	if err != nil || r.Method != http.MethodGet || c.Prefix().Codec != cid.Raw || len(data) < minSlotBlock {
		return data, func() {}, err
	}
	key := limit.ClientKey(r.RemoteAddr)
	release = func() { h.slots.release(key) }
	if h.slots.tryAcquire(key) {
		return data, release, nil
	}
	data = nil
	if err := h.slots.acquire(r.Context(), key); err != nil {
		return nil, nil, err
	}
	if data, err = cas.Get(r.Context(), h.Source, c); err != nil {
		release()
	}
	return data, release, err
}

// ipns serves /ipns/NAME. A record changes, so a cache must revalidate it.
func (h *handler) ipns(w http.ResponseWriter, r *http.Request) error {
	name := strings.TrimPrefix(r.URL.Path, "/ipns/")
	format, _, err := negotiate(r)
	if err != nil {
		return err
	}
	if format != formatIPNS || name == "" || len(name) > maxName || strings.Contains(name, "/") {
		return statusErrorf(http.StatusBadRequest, "ask for /ipns/NAME?format=ipns-record")
	}
	if h.IPNS == nil {
		return statusErrorf(http.StatusNotFound, "no names here")
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
	setCaching(w, r, formatIPNS, revalidate)
	http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(rec))
	return nil
}

// setCaching sets Cache-Control to policy, and Vary. Without a format in the query the answer
// depends on Accept: then it is not immutable, and Content-Location names the URL of the chosen
// format, with params (names and values) that Accept may have chosen.
// https://specs.ipfs.tech/http-gateways/path-gateway/#content-location-response-header
func setCaching(w http.ResponseWriter, r *http.Request, format, policy string, params ...string) {
	head := w.Header()
	head.Set("Vary", "Accept")
	q := r.URL.Query()
	if q.Get("format") == "" {
		q.Set("format", format)
		for i := 0; i < len(params); i += 2 {
			q.Set(params[i], params[i+1])
		}
		head.Set("Content-Location", r.URL.EscapedPath()+"?"+q.Encode())
		if policy == immutable {
			policy = revalidate
		}
	}
	head.Set("Cache-Control", policy)
}

// matchesETag reports whether If-None-Match names etag, or "*".
func matchesETag(r *http.Request, etag string) bool {
	for tag := range strings.SplitSeq(r.Header.Get("If-None-Match"), ",") {
		tag = strings.TrimPrefix(strings.TrimSpace(tag), "W/")
		if tag == strings.TrimPrefix(etag, "W/") || tag == "*" {
			return true
		}
	}
	return false
}
