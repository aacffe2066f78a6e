package gateway

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/url"

	"github.com/phaseboot/phaseboot/cas"
)

// ErrNoRanges means that a server answered a request for a range of a file with something else:
// it has no such file, or it or a cache on the way ignores ranges. It may still serve single blocks.
var ErrNoRanges = errors.New("no ranges of files")

// Range requests adjacent leaves as one range of the file that has them: path is that of a target of
// a TUF repository, DIR/SHA256.NAME, and length its signed length. Any static web server answers such a
// request, so that a run from a mirror costs one request too. A byte of the file outside the leaves is
// not requested, and none is believed: each leaf is checked against its CID.
//
// The other arguments and the errors are those of Run, with ErrNoRanges in place of ErrNoRuns. A
// missing file is ErrNoRanges, because the server may have the blocks.
func (c *Client) Range(ctx context.Context, path string, length int64, leaves []cas.Leaf, take func(i int, leaf RunLeaf) error) error {
	from, end := leaves[0].Offset, leaves[len(leaves)-1].Offset+leaves[len(leaves)-1].Size
	return c.requestRun(ctx, runRequest{
		name:   fmt.Sprintf("range of %.100q", path),
		path:   targetsPath + (&url.URL{Path: path}).EscapedPath(),
		accept: "*/*",
		more:   []string{"Range", fmt.Sprintf("bytes=%d-%d", from, end-1)},
		status: func(resp *http.Response) error { return rangeStatus(resp, from, end, length) },
		read:   func(head http.Header, rr *runReader) error { return readRange(head, rr, leaves, take) },
	})
}

// rangeStatus returns ErrNoRanges for a response that is not the range from:end of a file of length
// bytes, and the error of status for a busy or broken server.
func rangeStatus(resp *http.Response, from, end, length int64) error {
	switch resp.StatusCode {
	case http.StatusPartialContent:
	case http.StatusOK:
		return fmt.Errorf("status 200, the whole file: %w", ErrNoRanges)
	case http.StatusRequestedRangeNotSatisfiable:
		return fmt.Errorf("status 416, the file is shorter than signed: %w", ErrNoRanges)
	default:
		err := status(resp)
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, errRefused) {
			return fmt.Errorf("status %d: %w", resp.StatusCode, ErrNoRanges)
		}
		return err
	}
	is, want := resp.Header.Get("Content-Range"), fmt.Sprintf("bytes %d-%d/", from, end-1)
	if is != fmt.Sprintf("%s%d", want, length) && is != want+"*" {
		return fmt.Errorf("range %.60q in place of %s%d: %w", is, want, length, ErrNoRanges)
	}
	if coding := resp.Header.Get("Content-Encoding"); coding != "" && coding != "identity" {
		return fmt.Errorf("compressed with %.20q: %w", coding, ErrNoRanges)
	}
	return nil
}

// readRange reads leaves that follow one another. Wrong bytes that are labelled as a page are not a lie.
func readRange(head http.Header, rr *runReader, leaves []cas.Leaf, take func(i int, leaf RunLeaf) error) error {
	for i, l := range leaves {
		data, err := rr.consume(int(l.Size))
		if err != nil {
			return err
		}
		if err := cas.Check(l.CID, data); err != nil {
			if what := pageKind(head, data); what != "" {
				return fmt.Errorf("got %s: %w", what, ErrNoRanges)
			}
			return err
		}
		if err := take(i, RunLeaf{data, rr.buf}); err != nil {
			return err
		}
	}
	return nil
}
