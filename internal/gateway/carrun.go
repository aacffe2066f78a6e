package gateway

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"slices"
	"strconv"
	"time"

	"github.com/ipfs/go-cid"

	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/internal/car"
)

// maxPlanned is the maximum number of leaves of a run whose length is computed beforehand.
const maxPlanned = 4096

// sectionLen returns the length of the section of a leaf in a CAR.
func sectionLen(l cas.Leaf) int { return car.SectionLen(int(l.Size)) }

// A plan lists the leaves of a run without inner nodes. With it the Content-Length is known, which
// costs less than chunked encoding on both sides.
type plan struct {
	*carWriter
	leaves []cas.Leaf
	listed map[cid.Cid]bool // leaves, and nodes with all leaves below them
}

// plan returns the requested leaves of a file, each once unless dups is set. It returns nil if the
// request is not for a run without inner nodes, or has more than maxPlanned leaves.
func (o *carWriter) plan(c cid.Cid, p carParams) ([]cas.Leaf, error) {
	if p.spans == nil || !p.omitNodes || p.scope != "entity" || c.Prefix().Codec == cid.Raw {
		return nil, nil
	}
	n, err := o.node(c)
	if err != nil || n.Dir {
		return nil, err
	}
	run := plan{carWriter: o, listed: map[cid.Cid]bool{}}
	if err := run.list(n, 0, extents(p.spans, n.Size), 0); err != nil || len(run.leaves) > maxPlanned {
		return nil, err
	}
	return run.leaves, nil
}

// node reads an inner node, or takes it from the cache: consecutive runs need the same nodes.
func (o *carWriter) node(c cid.Cid) (cas.Node, error) {
	if n, ok := o.cache.nodes.Get(c); ok {
		return n, nil
	}
	data, err := cas.Get(o.ctx, o.src, c)
	if err != nil {
		return cas.Node{}, err
	}
	n, err := decode(c, data)
	if err == nil {
		o.cache.nodes.Add(c, n)
	}
	return n, err
}

// list adds the requested leaves below a node that begins at offset at of the file.
func (p *plan) list(n cas.Node, at int64, want []extent, depth int) error {
	if depth > cas.MaxDepth {
		return fmt.Errorf("DAG: deeper than %d: %w", cas.MaxDepth, cas.ErrCorrupt)
	}
	for _, l := range n.Links {
		c, here := l.CID, extent{at, at + l.Size}
		at = here.end
		some, whole := here.within(want)
		if !some || p.listed[c] && !p.dups || len(p.leaves) > maxPlanned {
			continue
		}
		if c.Prefix().Codec == cid.Raw {
			if err := p.add(cas.Leaf{CID: c, Offset: here.from, Size: l.Size}); err != nil {
				return err
			}
			continue
		}
		child, err := p.node(c)
		if err == nil {
			err = p.list(child, here.from, want, depth+1)
		}
		if err != nil {
			return err
		}
		p.listed[c] = whole
	}
	return nil
}

func (p *plan) add(l cas.Leaf) error {
	if l.Size < 0 || l.Size > cas.MaxBlock {
		return fmt.Errorf("block %s: %d bytes: %w", l.CID, l.Size, cas.ErrCorrupt)
	}
	p.listed[l.CID] = true
	p.leaves = append(p.leaves, l)
	return nil
}

// run writes the leaves of a plan. Leaves that are next to each other in a file of the store are
// sent many at a time.
func (o *carWriter) run(list []cas.Leaf) error {
	length := len(o.buf)
	for _, l := range list {
		length += sectionLen(l)
	}
	o.w.Header().Set("Content-Length", strconv.Itoa(length))
	var pos filePos
	defer pos.close()
	for len(list) > 0 {
		if err := o.awaitTurn(); err != nil {
			return err
		}
		n, err := o.writeFromFile(&pos, list)
		if n == 0 && err == nil {
			n = 1
			_, err = o.writeBlock(list[0].CID, list[0].Size)
		}
		if err != nil {
			return err
		}
		list = list[n:]
	}
	return o.flush()
}

// A filePos is an open file of the store and the offset behind the last leaf that was written.
type filePos struct {
	file *os.File
	at   int64
}

func (p *filePos) close() {
	p.file.Close() // of nil it does nothing
	p.file = nil
}

// writeFromFile writes the first leaves of the list from the file at pos, or else from the file
// that holds the first leaf. It returns how many it wrote; 0 if they are not in a file.
func (o *carWriter) writeFromFile(pos *filePos, list []cas.Leaf) (n int, err error) {
	src, ok := o.src.(cas.FileSource)
	if !ok {
		return 0, nil
	}
	if pos.file != nil {
		if n, err = o.writeAt(pos, list); n > 0 || err != nil {
			return n, err
		}
	}
	pos.close()
	if pos.file, pos.at, err = src.OpenBlock(o.ctx, list[0].CID); err != nil {
		return 0, nil // in memory perhaps
	}
	if _, err := pos.file.Seek(pos.at, io.SeekStart); err != nil {
		return 0, err
	}
	return o.writeAt(pos, list)
}

// writeAt writes those first leaves of the list whose sections are next in the file, up to a batch.
// It returns how many, 0 if another section is next or the leaf is damaged. The buffer is written
// only after the first of them is checked: a request for a single damaged leaf gets a status.
func (o *carWriter) writeAt(pos *filePos, list []cas.Leaf) (n int, err error) {
	size, b := 0, o.buf // size of the sections so far, and the buffer with those that were read
	for _, l := range list {
		if n > 0 && size+sectionLen(l) > batch {
			break
		}
		grown, ok := o.checkSection(pos.file, pos.at+int64(size), l, b)
		if !ok {
			break
		}
		if !o.sendfile {
			b = grown
		}
		n, size = n+1, size+sectionLen(l)
	}
	if n == 0 {
		return 0, nil
	}
	o.buf = b
	if len(o.buf) > 0 {
		err = o.flush()
	}
	if o.sendfile && err == nil {
		_, err = io.CopyN(o.w, pos.file, int64(size))
	}
	pos.at, o.turn.sent, o.flushed = pos.at+int64(size), o.turn.sent+size, true
	return n, err
}

// checkSection reads the section at an offset of a file, appends it to b, and reports whether it is
// the section of a leaf, with the right bytes. It does not hash a leaf again that was checked less
// than verifiedFor ago.
func (o *carWriter) checkSection(f *os.File, at int64, l cas.Leaf, b []byte) ([]byte, bool) {
	key := filePosition{l.CID, at}
	if o.cache.isVerified(key) {
		return o.readVerified(f, at, l, b)
	}
	section, err := cas.ReadSection(f, at, l, b)
	if len(b) == len(o.buf) {
		o.buf = section[:len(b)] // keeps the larger buffer
	}
	if err == nil {
		o.cache.verified.Add(key, time.Now())
	}
	return section, err == nil
}

// readVerified is checkSection without the hash. With sendfile it reads only the head.
func (o *carWriter) readVerified(f *os.File, at int64, l cas.Leaf, b []byte) ([]byte, bool) {
	head := car.AppendHead(make([]byte, 0, car.MaxHead), l.CID.KeyString(), int(l.Size))
	size := sectionLen(l)
	if o.sendfile {
		size = len(head)
	}
	start := len(b)
	b = slices.Grow(b, size)[:start+size]
	n, _ := f.ReadAt(b[start:], at)
	return b, n == size && bytes.HasPrefix(b[start:], head)
}

// canSendfile reports whether the kernel can send a file in the response: over plain TCP.
func canSendfile(r *http.Request) bool {
	_, tcp := r.Context().Value(http.LocalAddrContextKey).(*net.TCPAddr)
	return tcp && r.TLS == nil
}
