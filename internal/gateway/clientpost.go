package gateway

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"strings"
)

// ReportsHeader is the field with which a publisher says in each of its answers that it takes boot reports. Its value is
// ReportsVersion.
const (
	ReportsHeader  = "Phase-Reports"
	ReportsVersion = "v1"
)

// ErrRejected marks a document that a server has understood and does not take. It is not sent again.
var ErrRejected = errors.New("rejected")

// TakesReports reports whether an answer of the gateway has said that it takes boot reports.
func (c *Client) TakesReports() bool { return c.reports.Load() }

// Post sends a document to a path below Base. The body is sent only after the server has agreed to take it. It returns
// nil for 202. The error wraps fs.ErrNotExist for a server without this path, ErrRejected for a document that a publisher
// will never take, and otherwise cas.ErrUnreachable; a *BusyError says when to try again. An answer without ReportsHeader
// is not a publisher's, for example that of a captive portal: it neither takes nor rejects a document.
func (c *Client) Post(ctx context.Context, path, contentType string, body []byte) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, strings.TrimRight(c.Base, "/")+path, bytes.NewReader(body))
	if err != nil {
		return requestError(ctx, err)
	}
	req.Header.Set("Content-Type", contentType)
	req.Header.Set("Expect", "100-continue")
	req.Header.Set("User-Agent", userAgent)
	client := *c.httpClient()
	client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	resp, err := client.Do(req)
	if err != nil {
		return requestError(ctx, err)
	}
	defer resp.Body.Close()
	_, _ = io.CopyN(io.Discard, resp.Body, maxHeaders) // so that the connection is used again
	text := strings.TrimSpace(fmt.Sprintf("status %d %s", resp.StatusCode, http.StatusText(resp.StatusCode)))
	publisher := resp.Header.Get(ReportsHeader) == ReportsVersion
	switch code := resp.StatusCode; code {
	case http.StatusAccepted:
		if publisher {
			return nil
		}
	case http.StatusBadRequest, http.StatusForbidden, http.StatusRequestEntityTooLarge, http.StatusUnsupportedMediaType:
		if publisher {
			return fmt.Errorf("%s: %w", text, ErrRejected)
		}
	case http.StatusUnauthorized, http.StatusProxyAuthRequired, http.StatusRequestTimeout, http.StatusTooManyRequests:
		return status(resp)
	case http.StatusNotImplemented:
	default:
		if code/100 == 5 { // of a publisher, or of a proxy in front of one that is off
			return status(resp)
		}
	}
	return fmt.Errorf("%s: %w", text, fs.ErrNotExist)
}
