package gateway

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"strconv"
	"strings"

	"github.com/ipfs/go-cid"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/phaseboot/phaseboot/cas"
)

// maxPath bounds the segments of a path; the folders that we make are one deep.
const maxPath = 16

// A byteRange is the entity-bytes parameter: from a byte to a byte, both
// included; negative counts from the end; open runs to the end.
type byteRange struct {
	from, to int64
	open     bool
}

// maxSpans bounds the ranges of one request.
const maxSpans = 32

// parseRanges reads ranges with commas between them. More than one are an addition of
// ours to the parameter.
func parseRanges(s string) (list []byteRange, err error) {
	for one := range strings.SplitSeq(s, ",") {
		r, err := parseRange(one)
		if err != nil {
			return nil, err
		}
		if list = append(list, r); len(list) > maxSpans {
			return nil, fmt.Errorf("more than %d ranges", maxSpans)
		}
	}
	return list, nil
}

func parseRange(s string) (byteRange, error) {
	from, to, ok := strings.Cut(s, ":")
	if !ok {
		return byteRange{}, fmt.Errorf("%.60q is not FROM:TO", s)
	}
	var r byteRange
	var err error
	if r.from, err = strconv.ParseInt(from, 10, 64); err != nil {
		return r, fmt.Errorf("%.60q: FROM is not a number", s)
	}
	if to == "*" {
		r.open = true
		return r, nil
	}
	if r.to, err = strconv.ParseInt(to, 10, 64); err != nil {
		return r, fmt.Errorf("%.60q: TO is neither a number nor *", s)
	}
	if (r.from < 0) == (r.to < 0) && r.to < r.from {
		return r, fmt.Errorf("%.60q: ends before it begins", s)
	}
	return r, nil
}

// An extent is the bytes [from, end) of a file.
type extent struct{ from, end int64 }

var everything = []extent{{0, 1 << 62}}

// absolute places the range on a file of size bytes.
func (r byteRange) absolute(size int64) extent {
	from, end := r.from, size
	if from < 0 {
		from = max(size+from, 0)
	}
	if !r.open {
		end = min(r.to, size-1) + 1
		if r.to < 0 {
			end = size + r.to + 1
		}
	}
	return extent{from, end}
}

// extents are what the ranges ask of a file of size bytes, all of it where there is none.
func extents(ranges []byteRange, size int64) []extent {
	if ranges == nil {
		return []extent{{0, size}}
	}
	var list []extent
	for _, r := range ranges {
		list = append(list, r.absolute(size))
	}
	return list
}

// A node is what a gateway needs to know of a dag-pb block.
type node struct {
	dir   bool
	links []cid.Cid
	names []string
	sizes []int64 // UnixFS blocksizes, one a link in a file
	size  int64   // UnixFS filesize
}

// resolve walks path through UnixFS folders and returns the CIDs on the way, the
// root first.
func resolve(ctx context.Context, src cas.Source, root cid.Cid, path string) ([]cid.Cid, error) {
	trail := []cid.Cid{root}
	data, err := cas.Get(ctx, src, root)
	if err != nil {
		return nil, err
	}
	if path == "" {
		return trail, nil
	}
	segments := strings.Split(path, "/")
	if len(segments) > maxPath {
		return nil, refusef(http.StatusBadRequest, "path: more than %d segments", maxPath)
	}
	for _, name := range segments {
		n, err := decode(trail[len(trail)-1], data)
		if err != nil {
			return nil, err
		}
		next, err := n.child(name)
		if err != nil {
			return nil, err
		}
		trail = append(trail, next)
		if data, err = cas.Get(ctx, src, next); err != nil {
			return nil, err
		}
	}
	return trail, nil
}

func (n node) child(name string) (cid.Cid, error) {
	for i, have := range n.names {
		if n.dir && have == name {
			return n.links[i], nil
		}
	}
	return cid.Undef, fmt.Errorf("path segment %.60q: %w", name, fs.ErrNotExist)
}

// walk writes the DAG under c: the block alone, the file or folder (a folder is
// one block here), or everything.
func walk(o *carWriter, c cid.Cid, p carParams) error {
	data, err := o.block(c)
	if err != nil || p.scope == "block" {
		return err
	}
	n, err := decode(c, data)
	if err != nil {
		return err
	}
	if n.dir && p.scope == "entity" {
		return nil
	}
	return walkLinks(o, n, 0, extents(p.spans, n.size), 0)
}

// walkLinks writes what hangs under n, which stands at a byte of the file, as far as it is
// wanted; of a folder, all. What went out whole is not walked again: a few blocks can name
// themselves a million times over.
func walkLinks(o *carWriter, n node, at int64, want []extent, depth int) error {
	if depth > cas.MaxDepth {
		return fmt.Errorf("DAG: deeper than %d: %w", cas.MaxDepth, cas.ErrCorrupt)
	}
	for i, c := range n.links {
		here := extent{at, at}
		if !n.dir {
			here.end += n.sizes[i]
			at = here.end
		}
		some, whole := here.within(want)
		if !n.dir && !some {
			continue
		}
		whole = whole || n.dir
		if whole && o.seen[c] && !o.dups {
			continue
		}
		data, err := o.block(c)
		if err != nil {
			return err
		}
		child, err := decode(c, data)
		if err != nil {
			return err
		}
		if n.dir {
			want = everything
		}
		if err := walkLinks(o, child, here.from, want, depth+1); err != nil {
			return err
		}
		o.seen[c] = whole || o.seen[c]
	}
	return nil
}

// within reports whether some of e, and whether all of it, is in one of the list.
func (e extent) within(list []extent) (some, whole bool) {
	for _, w := range list {
		some = some || w.end > e.from && w.from < e.end
		whole = whole || w.from <= e.from && w.end >= e.end
	}
	return some, whole
}

var errNode = errors.New("not a UnixFS node")

// decode reads a block as UnixFS: a raw leaf has no links.
func decode(c cid.Cid, data []byte) (node, error) {
	if c.Prefix().Codec == cid.Raw {
		return node{size: int64(len(data))}, nil
	}
	n, err := decodeNode(data)
	if err == nil && !n.dir && len(n.sizes) != len(n.links) {
		err = fmt.Errorf("%d sizes for %d links", len(n.sizes), len(n.links))
	}
	if err == nil && len(n.links) > cas.MaxLinks {
		err = fmt.Errorf("%d links, the limit is %d", len(n.links), cas.MaxLinks)
	}
	if err != nil {
		return node{}, fmt.Errorf("block %s: %w: %w (%w)", c, errNode, err, cas.ErrCorrupt)
	}
	return n, nil
}

// decodeNode reads a PBNode of dag-pb: 1 is the data, 2 a link.
func decodeNode(b []byte) (n node, err error) {
	err = fields(b, func(num protowire.Number, v uint64, body []byte) error {
		switch num {
		case 1:
			return n.unixfs(body)
		case 2:
			return n.link(body)
		}
		return nil
	})
	return n, err
}

// link reads a PBLink: 1 is the CID, 2 the name.
func (n *node) link(b []byte) error {
	c, name := cid.Undef, ""
	err := fields(b, func(num protowire.Number, v uint64, body []byte) (err error) {
		switch num {
		case 1:
			c, err = cid.Cast(body)
		case 2:
			name = string(body)
		}
		return err
	})
	if err == nil {
		err = cas.CheckCID(c)
	}
	n.links, n.names = append(n.links, c), append(n.names, name)
	return err
}

// unixfs reads the UnixFS data: 1 is the type (1 folder, 2 file), 3 the size, 4
// the sizes of the links, packed or not.
func (n *node) unixfs(b []byte) error {
	return fields(b, func(num protowire.Number, v uint64, body []byte) error {
		switch {
		case num == 1 && v != 1 && v != 2:
			return fmt.Errorf("UnixFS type %d", v)
		case num == 1:
			n.dir = v == 1
		case num == 3:
			n.size = int64(v)
		case num == 4 && body == nil:
			n.sizes = append(n.sizes, int64(v))
		case num == 4:
			for len(body) > 0 {
				v, k := protowire.ConsumeVarint(body)
				if k < 0 {
					return protowire.ParseError(k)
				}
				n.sizes, body = append(n.sizes, int64(v)), body[k:]
			}
		}
		return nil
	})
}

// fields calls f for each field of a protobuf message: a varint with its value,
// a length-delimited one with its body.
func fields(b []byte, f func(num protowire.Number, v uint64, body []byte) error) error {
	for len(b) > 0 {
		num, typ, k := protowire.ConsumeTag(b)
		if k < 0 {
			return protowire.ParseError(k)
		}
		b = b[k:]
		var v uint64
		var body []byte
		switch typ {
		case protowire.VarintType:
			v, k = protowire.ConsumeVarint(b)
		case protowire.BytesType:
			body, k = protowire.ConsumeBytes(b)
		default:
			k = protowire.ConsumeFieldValue(num, typ, b)
		}
		if k < 0 {
			return protowire.ParseError(k)
		}
		if err := f(num, v, body); err != nil {
			return err
		}
		b = b[k:]
	}
	return nil
}
