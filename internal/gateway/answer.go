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
	defaultRetryAfter = time.Second     // if a busy gateway sends no Retry-After
	maxRetryAfter     = 2 * time.Minute // longer values of Retry-After are cut to this
)

// A BusyError is the response of an overloaded gateway (429 or 503). It may be asked again
// after a pause. It is a cas.ErrUnreachable.
type BusyError struct {
	After time.Duration // before the next request, at most two minutes
}

func (b *BusyError) Error() string {
	return fmt.Sprintf("busy, asks to wait %s", b.After)
}

// Unwrap returns cas.ErrUnreachable.
func (b *BusyError) Unwrap() error { return cas.ErrUnreachable }

// errRefused marks a status that the URL of the request may have caused, not the block.
var errRefused = errors.New("refused")

// errOtherForm marks a response in another format than requested.
var errOtherForm = errors.New("another format")

// status returns nil for 200, and otherwise the error of the table in doc.go.
func status(resp *http.Response) error {
	text := strings.TrimSpace(fmt.Sprintf("status %d %s", resp.StatusCode, http.StatusText(resp.StatusCode)))
	switch resp.StatusCode {
	case http.StatusOK:
		return nil
	case http.StatusServiceUnavailable, http.StatusTooManyRequests:
		return fmt.Errorf("%s: %w", text, &BusyError{retryAfter(resp.Header)})
	case http.StatusNotFound, http.StatusGone:
		return fmt.Errorf("%s: %w", text, fs.ErrNotExist)
	case http.StatusBadRequest, http.StatusForbidden, http.StatusMethodNotAllowed, http.StatusNotAcceptable, http.StatusNotImplemented:
		return fmt.Errorf("%s: %w%w", text, cas.ErrUnreachable, marker{errRefused})
	case http.StatusUnauthorized, http.StatusProxyAuthRequired:
		return fmt.Errorf("%s: %w; check user and password in the URL", text, cas.ErrUnreachable)
	default:
		return fmt.Errorf("%s: %w", text, cas.ErrUnreachable)
	}
}

// marker adds a mark to an error without adding to its text.
type marker struct{ mark error }

func (marker) Error() string   { return "" }
func (s marker) Unwrap() error { return s.mark }

// retryAfter reads Retry-After, in seconds or as a date, and bounds it by maxRetryAfter. A date
// is compared with the Date of the response if there is one, as the clock here may be wrong.
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

// checkBlock returns an error for a body that is not the block id but recognisably something
// else: a web page, an error in JSON, a CAR of the same CID. Such a server does not serve blocks
// now, which does not ban it. All other bytes pass; cas.Check decides about them.
func checkBlock(resp *http.Response, id cid.Cid, data []byte) error {
	what := otherForm(resp.Header, id, data)
	mark := errOtherForm
	if what == "" {
		what, mark = pageKind(resp.Header, data), nil
	}
	if what == "" || cas.Check(id, data) == nil {
		return nil
	}
	return unexpectedResponse("block", what, mark)
}

// unexpectedResponse returns the error for a response that a gateway does not send.
func unexpectedResponse(want, got string, mark error) error {
	return fmt.Errorf("got %s and no %s: %w; check the URL, and whether a proxy, cache or login page is in between%w", got, want, cas.ErrUnreachable, marker{mark})
}

// otherForm names the format of a response whose headers contradict a raw block, or that begins
// like a CAR; "" for any other response.
func otherForm(h http.Header, id cid.Cid, data []byte) string {
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

// pageKind names the kind of a page or of a text document, "" for anything else. A server may label a
// block text/plain if it does not know the type of a file: then its bytes decide.
func pageKind(h http.Header, data []byte) string {
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

// checkRecord returns an error for a body that does not have the form of an IPNS record. It
// checks neither the name nor the signature.
func checkRecord(resp *http.Response, data []byte) error {
	if len(data) > maxRecord {
		return unexpectedResponse("IPNS record", fmt.Sprintf("more than %d bytes", maxRecord), nil)
	}
	if isRecord(data) {
		return nil
	}
	what := pageKind(resp.Header, data)
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
	return unexpectedResponse("IPNS record", what, errOtherForm)
}

// isRecord reports whether data is a protobuf message with the field data (9) and one of
// the signatures (2, 8). https://specs.ipfs.tech/ipns/ipns-record/#record-serialization-format
func isRecord(data []byte) bool {
	var value, signature bool
	for len(data) > 0 {
		num, typ, n := protowire.ConsumeTag(data)
		if n < 0 {
			return false
		}
		data = data[n:]
		if n = protowire.ConsumeFieldValue(num, typ, data); n < 0 {
			return false
		}
		full := typ == protowire.BytesType && n > 1 // a length, and bytes after it
		value = value || num == 9 && full
		signature = signature || (num == 2 || num == 8) && full
		data = data[n:]
	}
	return value && signature
}
