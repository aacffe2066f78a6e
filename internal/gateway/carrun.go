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

	"github.com/ipfs/go-cid"

	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/internal/car"
)

// maxPlanned is how many leaves a run may have whose length is told beforehand.
const maxPlanned = 4096

// A leaf is a raw block of a file, as the nodes above it name it.
type leaf struct {
	cid  cid.Cid
	size int64
}

// section is the length of a leaf in a CAR.
func (l leaf) section() int { return car.SectionLen(int(l.size)) }

// head is what stands before the leaf in a CAR.
func (l leaf) head() []byte {
	return car.AppendHead(make([]byte, 0, car.MaxHead), l.cid.KeyString(), int(l.size))
}

// A plan is what a run without inner nodes will send: then the length of the answer is
// known before it begins, and a client reads it with less work than chunks.
type plan struct {
	*carWriter
	leaves []leaf
	listed map[cid.Cid]bool // leaves, and nodes with all that hangs under them
}

// plan lists the leaves of a file that are asked for, each once unless dups; nil when it
// is no such run, or one of very many leaves.
func (o *carWriter) plan(c cid.Cid, p carParams) ([]leaf, error) {
	if p.spans == nil || !p.bare || p.scope != "entity" || c.Prefix().Codec == cid.Raw {
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

// node reads an inner node, or remembers it: one run after another asks for the same.
func (o *carWriter) node(c cid.Cid) (cas.Node, error) {
	if n, ok := o.nodes.get(c); ok {
		return n, nil
	}
	data, err := cas.Get(o.ctx, o.src, c)
	if err != nil {
		return cas.Node{}, err
	}
	n, err := decode(c, data)
	if err == nil {
		o.nodes.add(c, n)
	}
	return n, err
}

// list adds the leaves under a node, which stands at a byte of the file, that are wanted.
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
			if err := p.add(leaf{c, l.Size}); err != nil {
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

func (p *plan) add(l leaf) error {
	if l.size < 0 || l.size > cas.MaxBlock {
		return fmt.Errorf("block %s: %d bytes: %w", l.cid, l.size, cas.ErrCorrupt)
	}
	p.listed[l.cid] = true
	p.leaves = append(p.leaves, l)
	return nil
}

// run writes the rest of a CAR whose leaves are known. Those that stand one behind the
// other in a file of the store are sent many at a time.
func (o *carWriter) run(list []leaf) error {
	length := len(o.buf)
	for _, l := range list {
		length += l.section()
	}
	o.w.Header().Set("Content-Length", strconv.Itoa(length))
	var s stretch
	defer s.close()
	for len(list) > 0 {
		if err := o.pause(); err != nil {
			return err
		}
		n, err := o.stretch(&s, list)
		if n == 0 && err == nil {
			n = 1
			_, err = o.put(list[0].cid, list[0].size)
		}
		if err != nil {
			return err
		}
		list = list[n:]
	}
	return o.flush()
}

// A stretch is a file, and where in it the next leaf may begin.
type stretch struct {
	file *os.File
	at   int64
}

func (s *stretch) close() {
	if s.file != nil {
		s.file.Close()
	}
	s.file = nil
}

// stretch writes those of the leaves that come next in the file, or in the one where the
// first of them is. 0 says that it must be written in another way.
func (o *carWriter) stretch(s *stretch, list []leaf) (n int, err error) {
	src, ok := o.src.(cas.FileSource)
	if !ok {
		return 0, nil
	}
	if s.file != nil {
		if n, err = o.sendfile(s, list); n > 0 || err != nil {
			return n, err
		}
	}
	s.close()
	if s.file, s.at, err = src.OpenBlock(o.ctx, list[0].cid); err != nil {
		return 0, nil // in memory perhaps
	}
	if _, err := s.file.Seek(s.at, io.SeekStart); err != nil {
		return 0, err
	}
	return o.sendfile(s, list)
}

// sendfile writes as many of the leaves as come next in the file, each checked, unless it
// was lately: 0 when another comes. What waits goes out before them, and not before they
// are known to be good: who asks for a bad one alone gets a status.
func (o *carWriter) sendfile(s *stretch, list []leaf) (n int, err error) {
	whole, full := 0, o.buf // bytes that are due, and those of them that were read, behind what waits
	for _, l := range list {
		if n > 0 && whole+l.section() > piece {
			break
		}
		b, ok := o.due(s.file, s.at+int64(whole), l, full)
		if !ok {
			break
		}
		if !o.direct {
			full = b
		}
		n, whole = n+1, whole+l.section()
	}
	if n == 0 {
		return 0, nil
	}
	if !o.direct {
		o.buf = full
	}
	if len(o.buf) > 0 {
		err = o.flush()
	}
	if o.direct {
		for left := whole; left > 0 && err == nil; left -= piece { // the asker has its time for each
			_, err = io.CopyN(o.w, s.file, int64(min(left, piece)))
		}
	}
	s.at, o.turn.sent, o.flushed = s.at+int64(whole), o.turn.sent+whole, true
	return n, err
}

// due reads the section at an offset of a file behind the end of b, and reports whether
// it is that of a leaf. Only the head of one that was checked lately is read, if the rest
// is not needed here.
func (o *carWriter) due(f *os.File, at int64, l leaf, b []byte) ([]byte, bool) {
	head, size := l.head(), l.section()
	_, lately := o.checked.get(place{l.cid, at})
	if lately && o.direct {
		size = len(head)
	}
	start := len(b)
	b = slices.Grow(b, size)[:start+size]
	if start == len(o.buf) {
		o.buf = b[:start]
	}
	section := b[start:]
	if n, _ := f.ReadAt(section, at); n < size || !bytes.HasPrefix(section, head) {
		return b, false
	}
	if !lately {
		if cas.Check(l.cid, section[len(head):]) != nil {
			return b, false
		}
		o.checked.add(place{l.cid, at}, struct{}{})
	}
	return b, true
}

// isDirect reports whether a file can be sent by the kernel: over plain TCP.
func isDirect(r *http.Request) bool {
	_, tcp := r.Context().Value(http.LocalAddrContextKey).(*net.TCPAddr)
	return tcp && r.TLS == nil
}
