package gateway

import (
	"bytes"
	"net/http"
	"strings"
	"time"

	"github.com/phaseboot/phaseboot/cas"
)

const typeHave = "application/octet-stream"

// have serves /have/ROOT, the bitfield of an artifact: which of its leaves this machine has
// verified and serves.
//
// ROOT is the CID of an artifact, as the manifest names it. The response is a bitmap, one bit
// for each leaf in file order (as cas.Leaves lists them), starting with the most significant
// bit of the first byte; bits after the last leaf are zero. A bit that was set stays set, so an
// old response is never wrong, only incomplete. A leaf that occurs twice has two bits.
//
// The type is application/octet-stream, Cache-Control is no-store, and the Etag changes with
// every leaf: a request with If-None-Match gets 304 without a body for an unchanged bitmap. An
// artifact that is neither fetched nor held is 404. A server that holds everything (a
// publisher, a mirror) answers 404 to all of these requests.
func (h *handler) have(w http.ResponseWriter, r *http.Request) error {
	c, err := cas.ParseCID(strings.TrimPrefix(r.URL.Path, "/have/"))
	if err != nil {
		return statusErrorf(http.StatusBadRequest, "bad CID: %v", err)
	}
	if h.Have == nil {
		return statusErrorf(http.StatusNotFound, "everything or nothing is here: ask for the blocks")
	}
	bits, version, err := h.Have(c)
	if err != nil {
		return err
	}
	head := w.Header()
	head.Set("Content-Type", typeHave)
	head.Set("Cache-Control", "no-store")
	head.Set("Etag", `"`+version+`"`)
	http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(bits))
	return nil
}
