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
		next, err := child(n, name)
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

// child returns the entry of a folder.
func child(n cas.Node, name string) (cid.Cid, error) {
	for _, l := range n.Links {
		if n.Dir && l.Name == name {
			return l.CID, nil
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
	if n.Dir && p.scope == "entity" {
		return nil
	}
	return walkLinks(o, n, 0, extents(p.spans, n.Size), 0)
}

// walkLinks writes what hangs under n, which stands at a byte of the file, as far as it is
// wanted; of a folder, all. What went out whole is not walked again: a few blocks can name
// themselves a million times over.
func walkLinks(o *carWriter, n cas.Node, at int64, want []extent, depth int) error {
	if depth > cas.MaxDepth {
		return fmt.Errorf("DAG: deeper than %d: %w", cas.MaxDepth, cas.ErrCorrupt)
	}
	for _, l := range n.Links {
		c, here := l.CID, extent{at, at + l.Size}
		at = here.end
		some, whole := here.within(want)
		if !n.Dir && !some {
			continue
		}
		whole = whole || n.Dir
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
		if n.Dir {
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
func decode(c cid.Cid, data []byte) (cas.Node, error) {
	if c.Prefix().Codec == cid.Raw {
		return cas.Node{Size: int64(len(data))}, nil
	}
	n, err := cas.DecodeNode(data)
	if err != nil {
		return n, fmt.Errorf("block %s: %w: %w", c, errNode, err)
	}
	return n, nil
}
