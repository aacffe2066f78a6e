package gateway

import (
	"bytes"
	"net/http"
	"strings"
	"time"

	"github.com/phaseboot/phaseboot/cas"
)

const typeHave = "application/octet-stream"

// have serves /have/ROOT: which leaves of an artifact this machine has verified and
// gives to others.
//
// ROOT is the CID of an artifact, as the manifest names it. The answer is a bitmap, one
// bit a leaf in file order (as cas.Leaves lists them), the most significant bit of the
// first byte first; bits after the last leaf are zero. A bit that was set stays set, so
// an old answer is never wrong, only poorer. A leaf that occurs twice has two bits.
//
// The type is application/octet-stream, Cache-Control is no-store, and the Etag changes
// with every leaf: asked with If-None-Match, an unchanged bitmap is 304 without a body.
// An artifact that is neither being fetched nor held is 404, and so is everything at a
// server that holds all (publishers, mirrors), which has nothing to say here.
func (h *handler) have(w http.ResponseWriter, r *http.Request) error {
	c, err := cas.ParseCID(strings.TrimPrefix(r.URL.Path, "/have/"))
	if err != nil {
		return refusef(http.StatusBadRequest, "bad CID: %v", err)
	}
	if h.Have == nil {
		return refusef(http.StatusNotFound, "everything or nothing is here: ask for the blocks")
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
