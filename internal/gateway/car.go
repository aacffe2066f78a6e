package gateway

import (
	"context"
	"fmt"
	"hash/fnv"
	"net/http"
	"slices"
	"strconv"
	"sync"

	"github.com/ipfs/go-cid"

	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/internal/car"
	"github.com/phaseboot/phaseboot/internal/limit"
)

// carParams are the parameters of a request that decide the blocks of its CAR.
type carParams struct {
	scope     string      // block, entity or all
	spans     []byteRange // bytes of the file, nil for all
	dups      bool        // a block that occurs twice is sent twice
	omitNodes bool        // inner nodes are not sent: the client has read them before
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
		var err error
		if p.spans, err = parseRanges(q.Get("entity-bytes")); err != nil {
			return p, statusErrorf(http.StatusBadRequest, "entity-bytes: %v", err)
		}
	}
	switch p.scope {
	case "block", "entity", "all":
	case "":
		p.scope = "all"
		if p.spans != nil {
			p.scope = "entity"
		}
	default:
		return p, statusErrorf(http.StatusBadRequest, "dag-scope %.40q: one of block, entity, all", p.scope)
	}
	if v := pick("car-version", "version"); v != "" && v != "1" {
		return p, statusErrorf(http.StatusBadRequest, "CAR version %.40q: only 1 is served", v)
	}
	if v := pick("car-order", "order"); v != "" && v != "dfs" && v != "unk" {
		return p, statusErrorf(http.StatusBadRequest, "CAR order %.40q: only dfs is served", v)
	}
	switch v := pick("car-dups", "dups"); v {
	case "", "n":
	case "y":
		p.dups = true
	default:
		return p, statusErrorf(http.StatusBadRequest, "CAR dups %.40q: y or n", v)
	}
	p.omitNodes = q.Get("nodes") == "n"
	return p, nil
}

func (p carParams) contentType() string {
	return typeCAR + "; version=1; order=dfs; dups=" + p.yesNo()
}

func (p carParams) yesNo() string {
	if p.dups {
		return "y"
	}
	return "n"
}

// etag returns a weak Etag: it stands for the same blocks, not necessarily for the same bytes.
func (p carParams) etag(c cid.Cid, path string) string {
	h := fnv.New64a()
	fmt.Fprintf(h, "%s %q %s %t %t", c, path, p.scope, p.dups, p.omitNodes)
	for _, s := range p.spans {
		fmt.Fprintf(h, " %d:%d:%t", s.from, s.to, s.open)
	}
	return fmt.Sprintf(`W/"%s.car.%x"`, c, h.Sum64())
}

// car serves a CARv1 of the blocks from the root along path, and then of the requested blocks,
// depth first.
func (h *handler) car(w http.ResponseWriter, r *http.Request, root cid.Cid, path string, accepted map[string]string) error {
	p, err := parseCAR(r, accepted)
	if err != nil {
		return err
	}
	head := w.Header()
	head.Set("Content-Type", p.contentType())
	head.Set("Content-Disposition", fmt.Sprintf("attachment; filename=\"%s.car\"", root))
	head.Set("Etag", p.etag(root, path))
	head.Set("Accept-Ranges", "none")
	setCaching(w, r, formatCAR, noStore, "car-version", "1", "car-order", "dfs", "car-dups", p.yesNo())
	if matchesETag(r, head.Get("Etag")) {
		if _, err := resolve(r.Context(), h.Source, root, path); err != nil {
			return err
		}
		w.WriteHeader(http.StatusNotModified)
		return nil
	}
	out := &carWriter{
		ctx: r.Context(), w: w, src: h.Source, cache: h.cache, written: map[cid.Cid]bool{},
		dups: p.dups, omitNodes: p.omitNodes, sendfile: canSendfile(r),
	}
	if r.Method == http.MethodGet {
		out.turn = turn{slots: h.slots, key: limit.ClientKey(r.RemoteAddr)}
		if err := out.turn.begin(out.ctx); err != nil {
			return err
		}
		defer out.turn.end()
	}
	trail, err := resolve(out.ctx, h.Source, root, path)
	if err != nil || r.Method == http.MethodHead {
		return err
	}
	if err := out.write(trail, p); err != nil && out.flushed {
		return cutShortError{err}
	} else {
		return err
	}
}

// batch is how many bytes of whole sections are written in one go.
const batch = 128 << 10

// A carWriter writes blocks as a CARv1. It checks each block as cas.Get does, except for leaves in
// files that were checked less than verifiedFor ago.
type carWriter struct {
	ctx       context.Context
	w         http.ResponseWriter
	src       cas.Source
	cache     *cache
	written   map[cid.Cid]bool // blocks in the CAR; true: with all blocks below
	dups      bool
	omitNodes bool
	sendfile  bool // the kernel can send files

	pooled *[]byte // from bufferPool
	buf    []byte  // sections that are not written yet
	turn   turn

	flushed bool // some sections were written
}

// write writes the CAR of the blocks along trail, and of the requested blocks at its end.
func (o *carWriter) write(trail []cid.Cid, p carParams) error {
	root, last := trail[0], len(trail)-1
	leaves, err := o.plan(trail[last], p)
	if err != nil {
		return err
	}
	o.takeBuffer()
	defer o.returnBuffer()
	o.buf = car.AppendHeader(o.buf, root.KeyString())
	if leaves != nil {
		return o.run(leaves)
	}
	for _, c := range trail[:last] {
		if _, err := o.block(c); err != nil {
			return err
		}
	}
	if err := walk(o, trail[last], p); err != nil {
		return err
	}
	if !o.flushed { // a length costs less than chunks
		o.w.Header().Set("Content-Length", strconv.Itoa(len(o.buf)))
	}
	return o.flush()
}

// block reads c and writes it to the CAR, unless it was already written or inner nodes were not
// requested. The returned bytes are valid until the next call.
func (o *carWriter) block(c cid.Cid) ([]byte, error) {
	whole, written := o.written[c]
	if written && !o.dups || o.omitNodes && c.Prefix().Codec != cid.Raw {
		return cas.Get(o.ctx, o.src, c)
	}
	o.written[c] = whole
	return o.writeBlock(c, -1)
}

// writeBlock writes the section of a block, of size bytes unless that is negative, and returns the
// block.
func (o *carWriter) writeBlock(c cid.Cid, size int64) ([]byte, error) {
	if err := o.awaitTurn(); err != nil {
		return nil, err
	}
	data, err := o.appendSection(c, int(size))
	if err == nil && len(o.buf) >= batch {
		err = o.flush()
	}
	return data, err
}

// appendSection appends the section of a block to the buffer and returns the block. size is its
// expected size, or negative: then the longest head is reserved before the block is read.
func (o *carWriter) appendSection(c cid.Cid, size int) ([]byte, error) {
	reserved := car.MaxHead
	if size >= 0 {
		reserved = car.HeadLen(size)
	}
	start := len(o.buf)
	at := start + reserved
	b, err := cas.Append(o.ctx, o.src, c, size, slices.Grow(o.buf, reserved)[:at])
	if err != nil {
		return nil, err
	}
	n := len(b) - at
	if size >= 0 && n != size {
		return nil, fmt.Errorf("block %s: %d bytes, its file says %d: %w", c, n, size, cas.ErrCorrupt)
	}
	if spare := reserved - car.HeadLen(n); spare > 0 {
		b = append(b[:at-spare], b[at:]...)
		at -= spare
	}
	car.AppendHead(b[:start], c.KeyString(), n) // into the reserved bytes
	o.turn.sent += len(b) - start
	o.buf = b
	return b[at:], nil
}

func (o *carWriter) flush() error {
	_, err := o.w.Write(o.buf)
	o.buf, o.flushed = o.buf[:0], true
	return err
}

// awaitTurn waits for the next turn if this one is over, without a buffer.
func (o *carWriter) awaitTurn() error {
	if o.turn.sent < turnSize {
		return nil
	}
	if err := o.flush(); err != nil {
		return err
	}
	o.returnBuffer()
	defer o.takeBuffer()
	return o.turn.next(o.ctx)
}

func (o *carWriter) takeBuffer() {
	o.pooled = bufferPool.Get().(*[]byte)
	o.buf = *o.pooled
}

func (o *carWriter) returnBuffer() {
	*o.pooled = o.buf[:0]
	bufferPool.Put(o.pooled)
}

// bufferPool holds the buffers of carWriters.
var bufferPool = sync.Pool{New: func() any { return new(make([]byte, 0, 2*batch)) }}
