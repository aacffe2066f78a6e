package gateway

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"mime"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/ipfs/go-cid"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/phaseboot/phaseboot/cas"
)

const (
	defaultRetryAfter = time.Second     // when a busy gateway gives no Retry-After
	maxRetryAfter     = 2 * time.Minute // the longest Retry-After that is obeyed
)

// A BusyError is the answer of a gateway that is overloaded (429 or 503): it is not broken
// and may be asked again. It is a cas.ErrUnreachable.
type BusyError struct {
	After time.Duration // before the next request, at most two minutes
}

func (b *BusyError) Error() string {
	return fmt.Sprintf("busy, asks to wait %s", b.After)
}

// Unwrap returns cas.ErrUnreachable.
func (b *BusyError) Unwrap() error { return cas.ErrUnreachable }

// errRefused marks a status that may be due to the form of the request and not to the block.
var errRefused = errors.New("refused")

// errForm marks an answer in another form than the one asked for.
var errForm = errors.New("another form")

// status returns nil for 200, else the error of the table in doc.go.
func status(resp *http.Response) error {
	words := strings.TrimSpace(fmt.Sprintf("status %d %s", resp.StatusCode, http.StatusText(resp.StatusCode)))
	switch resp.StatusCode {
	case http.StatusOK:
		return nil
	case http.StatusServiceUnavailable, http.StatusTooManyRequests:
		return fmt.Errorf("%s: %w", words, &BusyError{retryAfter(resp.Header)})
	case http.StatusNotFound, http.StatusGone:
		return fmt.Errorf("%s: %w", words, fs.ErrNotExist)
	case http.StatusBadRequest, http.StatusForbidden, http.StatusMethodNotAllowed, http.StatusNotAcceptable, http.StatusNotImplemented:
		return fmt.Errorf("%s: %w%w", words, cas.ErrUnreachable, silent{errRefused})
	case http.StatusUnauthorized, http.StatusProxyAuthRequired:
		return fmt.Errorf("%s: %w; check user and password in the URL", words, cas.ErrUnreachable)
	default:
		return fmt.Errorf("%s: %w", words, cas.ErrUnreachable)
	}
}

// silent marks an error without adding words to it.
type silent struct{ mark error }

func (silent) Error() string   { return "" }
func (s silent) Unwrap() error { return s.mark }

// retryAfter reads Retry-After, in seconds or as a date, bounded by maxRetryAfter. A date is
// compared with the answer's own Date where there is one: our clock may be wrong.
// https://www.rfc-editor.org/rfc/rfc9110#field.retry-after
func retryAfter(h http.Header) time.Duration {
	text := strings.TrimSpace(h.Get("Retry-After"))
	if n, err := strconv.ParseUint(text, 10, 64); err == nil {
		return time.Duration(min(n, uint64(maxRetryAfter/time.Second))) * time.Second
	}
	at, err := http.ParseTime(text)
	if err != nil {
		return defaultRetryAfter
	}
	now, err := http.ParseTime(h.Get("Date"))
	if err != nil {
		now = time.Now()
	}
	return min(max(at.Sub(now), 0), maxRetryAfter)
}

// checkBlock returns an error for a body that is not the block id and is recognisably
// something else: a web page, an error in JSON, a CAR of the same CID. Such a server does
// not serve blocks now, which is no lie. All other bytes pass: cas.Check judges them.
func checkBlock(resp *http.Response, id cid.Cid, data []byte) error {
	what := anotherForm(resp.Header, id, data)
	mark := errForm
	if what == "" {
		what, mark = page(resp.Header, data), nil
	}
	if what == "" || cas.Check(id, data) == nil {
		return nil
	}
	return notGateway("block", what, mark)
}

// notGateway words an answer that is not what a gateway serves.
func notGateway(want, got string, mark error) error {
	return fmt.Errorf("got %s and no %s: %w; check the URL, and whether a proxy, cache or login page is in between%w", got, want, cas.ErrUnreachable, silent{mark})
}

// anotherForm names the form of an answer that says of itself that it is not a raw block,
// or begins like a CAR; "" when it does not.
func anotherForm(h http.Header, id cid.Cid, data []byte) string {
	switch kind := mediaType(h); {
	case kind == typeCAR, isCAR(data):
		return "a CAR"
	case kind != typeRaw && (strings.HasPrefix(kind, "application/vnd.ipld.") || strings.HasPrefix(kind, "application/vnd.ipfs.")):
		return fmt.Sprintf("%.60q", kind)
	}
	if coding := h.Get("Content-Encoding"); coding != "" && coding != "identity" {
		return fmt.Sprintf("an answer compressed with %.20q", coding)
	}
	if at, err := url.Parse(h.Get("Content-Location")); err == nil {
		if f := at.Query().Get("format"); f != "" && f != formatRaw {
			return fmt.Sprintf("format %.20q", f)
		}
	}
	// https://specs.ipfs.tech/http-gateways/path-gateway/#etag-response-header
	tag := strings.Trim(strings.TrimPrefix(h.Get("Etag"), "W/"), `"`)
	if form, ok := strings.CutPrefix(tag, id.String()); ok && form != "."+formatRaw {
		return "the content of a file, not its block"
	}
	return ""
}

// isCAR reports whether data begins like a CARv1 or CARv2.
// https://ipld.io/specs/transport/car/
func isCAR(data []byte) bool {
	_, n := protowire.ConsumeVarint(data[:min(len(data), 10)])
	if n < 0 {
		return false
	}
	head := data[n:]
	return bytes.HasPrefix(head, []byte("\xa2\x65roots")) || bytes.HasPrefix(head, []byte("\xa1\x67version\x02"))
}

// page names a text that people or programs read, "" for anything else. A server that does
// not know a file's type may call a block text/plain: then its bytes decide.
func page(h http.Header, data []byte) string {
	switch kind := mediaType(h); {
	case kind == "text/html", kind == "application/xhtml+xml":
		return "a web page"
	case strings.HasSuffix(kind, "/json"), strings.HasSuffix(kind, "+json"), strings.HasSuffix(kind, "/xml"), strings.HasSuffix(kind, "+xml"):
		return fmt.Sprintf("%.60q", kind)
	case strings.HasPrefix(kind, "text/") && strings.HasPrefix(http.DetectContentType(data), "text/"):
		return "a text page"
	}
	return ""
}

func mediaType(h http.Header) string {
	kind, _, err := mime.ParseMediaType(h.Get("Content-Type"))
	if err != nil {
		return ""
	}
	return kind
}

// checkRecord returns an error for a body that is no IPNS record at all. It checks neither
// the name nor the signature.
func checkRecord(resp *http.Response, data []byte) error {
	if len(data) > maxRecord {
		return notGateway("IPNS record", fmt.Sprintf("more than %d bytes", maxRecord), nil)
	}
	if isRecord(data) {
		return nil
	}
	what := page(resp.Header, data)
	switch text := bytes.TrimSpace(data); {
	case what != "":
	case bytes.HasPrefix(text, []byte("<")):
		what = "a web page"
	case len(text) == 0:
		what = "nothing"
	case strings.HasPrefix(http.DetectContentType(text), "text/"):
		what = fmt.Sprintf("the text %.60q", text)
	default:
		what = fmt.Sprintf("%d other bytes", len(data))
	}
	return notGateway("IPNS record", what, errForm)
}

// isRecord reports whether data is a protobuf message with the field data (9) and one of
// the signatures (2, 8). https://specs.ipfs.tech/ipns/ipns-record/#record-serialization-format
func isRecord(data []byte) bool {
	var value, signature bool
	for len(data) > 0 {
		num, kind, tag := protowire.ConsumeTag(data)
		if tag < 0 {
			return false
		}
		n := protowire.ConsumeFieldValue(num, kind, data[tag:])
		if n < 0 {
			return false
		}
		if kind == protowire.BytesType {
			body, _ := protowire.ConsumeBytes(data[tag:])
			value = value || num == 9 && len(body) > 0
			signature = signature || (num == 2 || num == 8) && len(body) > 0
		}
		data = data[tag+n:]
	}
	return value && signature
}
