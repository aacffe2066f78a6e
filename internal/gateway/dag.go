package gateway

import (
	"context"
	"fmt"
	"io/fs"
	"net/http"
	"strconv"
	"strings"

	"github.com/ipfs/go-cid"

	"github.com/phaseboot/phaseboot/cas"
)

// maxPath bounds the segments of a path. The folders of a repository are one deep.
const maxPath = 16

// A byteRange is one range of the entity-bytes parameter: from and to are the first and the last
// byte, negative numbers count from the end, and an open range ends at the end of the file.
type byteRange struct {
	from, to int64
	open     bool
}

// maxSpans bounds the ranges of one request.
const maxSpans = 32

// parseRanges parses ranges separated by commas. More than one range is an extension of the
// parameter.
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

// An extent is the range [from, end) of the bytes of a file.
type extent struct{ from, end int64 }

var everything = []extent{{0, 1 << 62}}

// absolute returns the extent of the range in a file of size bytes.
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

// extents returns the extents of the ranges in a file of size bytes; nil ranges are the whole file.
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

// resolve follows path through UnixFS folders and returns the CIDs on the way, starting with root.
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
		return nil, statusErrorf(http.StatusBadRequest, "path: more than %d segments", maxPath)
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

// child returns the CID of an entry of a folder.
func child(n cas.Node, name string) (cid.Cid, error) {
	for _, l := range n.Links {
		if n.Dir && l.Name == name {
			return l.CID, nil
		}
	}
	return cid.Undef, fmt.Errorf("path segment %.60q: %w", name, fs.ErrNotExist)
}

// walk writes the DAG of c: only the block, the file or folder (a folder is one block here), or
// everything below it.
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

// walkLinks writes the requested blocks below n, which begins at offset at of the file, and all
// blocks below a folder. It does not walk again what was written completely: a few blocks can link
// to each other a million times.
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
		if whole && o.written[c] && !o.dups {
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
		o.written[c] = whole || o.written[c]
	}
	return nil
}

// within reports whether a part of e is in an extent of the list, and whether one contains all of e.
func (e extent) within(list []extent) (some, whole bool) {
	for _, w := range list {
		some = some || w.end > e.from && w.from < e.end
		whole = whole || w.from <= e.from && w.end >= e.end
	}
	return some, whole
}

// decode is cas.DecodeNode with an error that names the block.
func decode(c cid.Cid, data []byte) (cas.Node, error) {
	n, err := cas.DecodeNode(c, data)
	if err != nil {
		return n, fmt.Errorf("block %s: not a UnixFS node: %w", c, err)
	}
	return n, nil
}
