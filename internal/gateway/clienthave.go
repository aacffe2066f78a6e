package gateway

import (
	"context"
	"fmt"
	"io"
	"net/http"

	"github.com/ipfs/go-cid"

	"github.com/phaseboot/phaseboot/cas"
)

const maxETag = 128

// Have requests the bitfield of a peer: which leaves of an artifact it has, one bit for each
// leaf in file order, starting with the most significant bit of the first byte. etag is that
// of an earlier response or "". A nil bitmap means that nothing has changed since.
//
// The error wraps fs.ErrNotExist if the peer does not have the artifact or serves no
// bitfields, cas.ErrCorrupt if the response is not one bit for each leaf, and otherwise
// cas.ErrUnreachable, also for a web page.
func (c *Client) Have(ctx context.Context, root cid.Cid, leaves int, etag string) (bitmap []byte, newTag string, err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	watch := c.startWatchdog(cancel)
	defer watch.stop()
	var more []string
	if etag != "" {
		more = []string{"If-None-Match", etag}
	}
	resp, err := c.request(ctx, "/have/"+root.String(), typeHave, more...)
	if err != nil {
		return nil, "", fmt.Errorf("have %s: %w", root, err)
	}
	defer resp.Body.Close()
	if resp.StatusCode == http.StatusNotModified && etag != "" {
		return nil, etag, nil
	}
	if err := status(resp); err != nil {
		return nil, "", fmt.Errorf("have %s: %w", root, err)
	}
	if kind := mediaType(resp.Header); kind != "" && kind != typeHave {
		return nil, "", fmt.Errorf("have %s: %w", root, unexpectedResponse("bitmap", fmt.Sprintf("%.60q", kind), nil))
	}
	size := (leaves + 7) / 8
	bitmap = make([]byte, size+1)
	n, err := io.ReadFull(resp.Body, bitmap)
	switch {
	case err == nil, n < size && (err == io.EOF || err == io.ErrUnexpectedEOF) && ctx.Err() == nil:
		return nil, "", fmt.Errorf("have %s: not one bit for each of %d leaves: %w", root, leaves, cas.ErrCorrupt)
	case n < size:
		return nil, "", fmt.Errorf("have %s: %w", root, requestError(ctx, err))
	case leaves%8 != 0 && bitmap[size-1]<<(leaves%8) != 0:
		return nil, "", fmt.Errorf("have %s: bits beyond its %d leaves: %w", root, leaves, cas.ErrCorrupt)
	}
	if newTag = resp.Header.Get("Etag"); len(newTag) > maxETag {
		newTag = ""
	}
	return bitmap[:size], newTag, nil
}
