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

// carParams are the parameters of a CAR request that change its blocks.
type carParams struct {
	scope string      // block, entity or all
	spans []byteRange // bytes of the file, nil for all of them
	dups  bool        // a block that occurs twice is sent twice
	bare  bool        // inner nodes stay out: the asker has read them before
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
			return p, refusef(http.StatusBadRequest, "entity-bytes: %v", err)
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
	p.bare = q.Get("nodes") == "n"
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

// etag is weak: the same blocks, not necessarily the same bytes.
func (p carParams) etag(c cid.Cid, path string) string {
	h := fnv.New64a()
	fmt.Fprintf(h, "%s %q %s %t %t", c, path, p.scope, p.dups, p.bare)
	for _, s := range p.spans {
		fmt.Fprintf(h, " %d:%d:%t", s.from, s.to, s.open)
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
	head := w.Header()
	head.Set("Content-Type", p.contentType())
	head.Set("Content-Disposition", fmt.Sprintf("attachment; filename=\"%s.car\"", root))
	head.Set("Etag", p.etag(root, path))
	head.Set("Accept-Ranges", "none")
	form(w, r, formatCAR, neverKept, "car-version", "1", "car-order", "dfs", "car-dups", p.yesNo())
	if known(r, head.Get("Etag")) {
		if _, err := resolve(r.Context(), h.Source, root, path); err != nil {
			return err
		}
		w.WriteHeader(http.StatusNotModified)
		return nil
	}
	out := &carWriter{ctx: r.Context(), w: w, src: h.Source, seen: map[cid.Cid]bool{}, dups: p.dups, bare: p.bare, direct: isDirect(r), memory: h.memory}
	if r.Method == http.MethodGet {
		out.turn = turn{slots: h.slots, who: limit.Asker(r.RemoteAddr)}
		if err := out.turn.begin(out.ctx); err != nil {
			return err
		}
		defer out.turn.end()
	}
	trail, err := resolve(out.ctx, h.Source, root, path)
	if err != nil {
		return err
	}
	if r.Method == http.MethodHead {
		return nil
	}
	leaves, err := out.plan(trail[len(trail)-1], p)
	if err != nil {
		return err
	}
	out.borrow()
	defer out.giveBack()
	out.header(root)
	if leaves != nil {
		return out.run(leaves)
	}
	for _, c := range trail[:len(trail)-1] {
		if _, err := out.block(c); err != nil {
			return err
		}
	}
	if err := walk(out, trail[len(trail)-1], p); err != nil {
		return err
	}
	if !out.flushed { // a length costs less than chunks
		head.Set("Content-Length", strconv.Itoa(len(out.buf)))
	}
	return out.flush()
}

// batch is how many bytes of whole sections are written in one go.
const batch = 128 << 10

// carWriter writes blocks as a CARv1, each checked as cas.Get does, or lately.
type carWriter struct {
	ctx  context.Context
	w    http.ResponseWriter
	src  cas.Source
	seen map[cid.Cid]bool // went out; true: with all that hangs under it
	dups bool
	bare bool

	direct bool // a file goes out without a copy
	*memory
	lent *[]byte
	buf  []byte // sections that wait to be written
	turn turn

	flushed bool // some were written
}

// header writes the CARv1 header.
func (o *carWriter) header(root cid.Cid) { o.buf = car.AppendHeader(o.buf, root.KeyString()) }

// block reads a block, writes it unless it went out before or is to stay out, and returns
// it: the bytes are good until the next call.
func (o *carWriter) block(c cid.Cid) ([]byte, error) {
	whole, sent := o.seen[c]
	if sent && !o.dups || o.bare && c.Prefix().Codec != cid.Raw {
		return cas.Get(o.ctx, o.src, c)
	}
	o.seen[c] = whole
	return o.put(c, -1)
}

// put reads a block, of size bytes unless that is negative, to where it is written from,
// and writes what has come together.
func (o *carWriter) put(c cid.Cid, size int64) ([]byte, error) {
	if err := o.pause(); err != nil {
		return nil, err
	}
	data, err := o.section(c, int(size))
	if err == nil && len(o.buf) >= batch {
		err = o.flush()
	}
	return data, err
}

// section appends the section of a block to the buffer and returns the block. size is its
// expected size, or negative: then the longest head is reserved before the block is read.
func (o *carWriter) section(c cid.Cid, size int) ([]byte, error) {
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

// pause waits for the next turn, when this one is over. It holds no buffer meanwhile.
func (o *carWriter) pause() error {
	if o.turn.sent < slotTurn {
		return nil
	}
	if err := o.flush(); err != nil {
		return err
	}
	o.giveBack()
	defer o.borrow()
	return o.turn.next(o.ctx)
}

func (o *carWriter) borrow() {
	o.lent = sections.Get().(*[]byte)
	o.buf = *o.lent
}

func (o *carWriter) giveBack() {
	*o.lent = o.buf[:0]
	sections.Put(o.lent)
}

// sections lends the buffers of carWriters.
var sections = sync.Pool{New: func() any { return new(make([]byte, 0, 2*batch)) }}
