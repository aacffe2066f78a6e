package gateway

import (
	"context"
	"encoding/binary"
	"fmt"
	"hash/fnv"
	"io"
	"net/http"

	"github.com/ipfs/go-cid"

	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/internal/limit"
)

// carParams are the parameters of a CAR request that change its blocks.
type carParams struct {
	scope string     // block, entity or all
	span  *byteRange // bytes of the file, nil for all of them
	dups  bool       // a block that occurs twice is sent twice
}

func parseCAR(r *http.Request, accepted map[string]string) (carParams, error) {
	q := r.URL.Query()
	pick := func(query, param string) string {
		if v := q.Get(query); v != "" {
			return v
		}
		return accepted[param]
	}
	p := carParams{scope: q.Get("dag-scope")}
	if q.Has("entity-bytes") {
		span, err := parseRange(q.Get("entity-bytes"))
		if err != nil {
			return p, refusef(http.StatusBadRequest, "entity-bytes: %v", err)
		}
		p.span = &span
	}
	switch p.scope {
	case "block", "entity", "all":
	case "":
		p.scope = "all"
		if p.span != nil {
			p.scope = "entity"
		}
	default:
		return p, refusef(http.StatusBadRequest, "dag-scope %.40q: one of block, entity, all", p.scope)
	}
	if v := pick("car-version", "version"); v != "" && v != "1" {
		return p, refusef(http.StatusBadRequest, "CAR version %.40q: only 1 is served", v)
	}
	if v := pick("car-order", "order"); v != "" && v != "dfs" && v != "unk" {
		return p, refusef(http.StatusBadRequest, "CAR order %.40q: only dfs is served", v)
	}
	switch v := pick("car-dups", "dups"); v {
	case "", "n":
	case "y":
		p.dups = true
	default:
		return p, refusef(http.StatusBadRequest, "CAR dups %.40q: y or n", v)
	}
	return p, nil
}

func (p carParams) contentType() string {
	dups := "n"
	if p.dups {
		dups = "y"
	}
	return typeCAR + "; version=1; order=dfs; dups=" + dups
}

// etag is weak: the same blocks, not necessarily the same bytes.
func (p carParams) etag(c cid.Cid, path string) string {
	h := fnv.New64a()
	fmt.Fprintf(h, "%q %s %t", path, p.scope, p.dups)
	if p.span != nil {
		fmt.Fprintf(h, " %d:%d:%t", p.span.from, p.span.to, p.span.open)
	}
	return fmt.Sprintf(`W/"%s.car.%x"`, c, h.Sum64())
}

// car serves a CARv1 of the blocks from the root along path, and then those that
// the parameters ask for, depth first.
func (h *handler) car(w http.ResponseWriter, r *http.Request, root cid.Cid, path string, accepted map[string]string) error {
	p, err := parseCAR(r, accepted)
	if err != nil {
		return err
	}
	etag := p.etag(root, path)
	if notModified(w, r, etag) {
		return nil
	}
	if r.Method == http.MethodGet {
		who := limit.Asker(r.RemoteAddr)
		if err := h.slots.take(r.Context(), who); err != nil {
			return err
		}
		defer h.slots.give(who)
	}
	out := &carWriter{ctx: r.Context(), w: w, src: h.Source, seen: map[cid.Cid]bool{}, dups: p.dups}
	trail, err := resolve(out.ctx, h.Source, root, path)
	if err != nil {
		return err
	}
	head := w.Header()
	head.Set("Content-Type", p.contentType())
	head.Set("Content-Disposition", `attachment; filename="`+root.String()+`.car"`)
	head.Set("Cache-Control", immutable)
	head.Set("Etag", etag)
	head.Set("Accept-Ranges", "none")
	head.Set("X-Ipfs-Roots", root.String())
	if r.Method == http.MethodHead {
		return nil
	}
	if err := out.header(root); err != nil {
		return err
	}
	for _, c := range trail[:len(trail)-1] {
		if _, err := out.block(c); err != nil {
			return err
		}
	}
	return walk(out, trail[len(trail)-1], p)
}

// carWriter writes blocks as a CARv1, each read through cas.Get.
type carWriter struct {
	ctx  context.Context
	w    io.Writer
	src  cas.Source
	seen map[cid.Cid]bool // went out; true: with all that hangs under it
	dups bool
}

// header writes the CARv1 header.
func (o *carWriter) header(root cid.Cid) error { return o.section(carHeader(root), nil) }

// carHeader is the DAG-CBOR of {"roots": [root], "version": 1}.
func carHeader(root cid.Cid) []byte {
	key := root.Bytes()
	b := []byte("\xa2\x65roots\x81\xd8\x2a\x58")
	b = append(b, byte(len(key)+1), 0)
	b = append(b, key...)
	return append(b, "\x67version\x01"...)
}

// block reads a block, writes it unless it went out before, and returns it.
func (o *carWriter) block(c cid.Cid) ([]byte, error) {
	data, err := cas.Get(o.ctx, o.src, c)
	if err != nil {
		return nil, err
	}
	whole, sent := o.seen[c]
	if sent && !o.dups {
		return data, nil
	}
	o.seen[c] = whole
	return data, o.section(c.Bytes(), data)
}

func (o *carWriter) section(name, data []byte) error {
	head := binary.AppendUvarint(nil, uint64(len(name)+len(data)))
	if _, err := o.w.Write(append(head, name...)); err != nil {
		return err
	}
	_, err := o.w.Write(data)
	return err
}
