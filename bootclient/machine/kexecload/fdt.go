package kexecload

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
)

// Flattened device trees (Devicetree Specification 0.4, chapter 5).
const (
	fdtMagic   = 0xd00dfeed
	fdtVersion = 17 // also the oldest that is read: with the length of the structure block
	fdtHeader  = 40
	fdtDepth   = 64 // limit of nodes in nodes

	beginNode = 1
	endNode   = 2
	property  = 3
	nop       = 4
	endTree   = 9
)

// A fdt is a flattened device tree. Values of a tree that was read are parts of its bytes.
type fdt struct {
	reserved []reservation
	bootCPU  uint32
	root     *fdtNode
}

// A reservation is memory that the kernel must not use.
type reservation struct{ at, size uint64 }

type fdtNode struct {
	name       string
	properties []fdtProperty
	children   []*fdtNode
}

type fdtProperty struct {
	name  string
	value []byte
}

// child returns the child with a name, nil if there is none.
func (n *fdtNode) child(name string) *fdtNode {
	if i := slices.IndexFunc(n.children, func(c *fdtNode) bool { return c.name == name }); i >= 0 {
		return n.children[i]
	}
	return nil
}

// value returns the value of a property, and false if there is none.
func (n *fdtNode) value(name string) ([]byte, bool) {
	if i := slices.IndexFunc(n.properties, func(p fdtProperty) bool { return p.name == name }); i >= 0 {
		return n.properties[i].value, true
	}
	return nil, false
}

var errTree = errors.New("device tree: damaged")

// parseFDT reads a device tree of at most maxTree bytes.
func parseFDT(data []byte) (*fdt, error) {
	if len(data) > maxTree {
		return nil, fmt.Errorf("device tree: %d bytes, the limit is %d", len(data), maxTree)
	}
	if len(data) < fdtHeader {
		return nil, errTree
	}
	field := func(i int) uint32 { return binary.BigEndian.Uint32(data[4*i:]) }
	total := uint64(field(1))
	if field(0) != fdtMagic || field(5) < fdtVersion || field(6) > fdtVersion || total < fdtHeader || total > uint64(len(data)) {
		return nil, errTree
	}
	data = data[:total]
	block := func(off, size uint32) []byte {
		if end := uint64(off) + uint64(size); end <= uint64(len(data)) {
			return data[off:end:end]
		}
		return nil
	}
	tree := &fdt{bootCPU: field(7)}
	r := fdtReader{structure: block(field(2), field(9)), strings: block(field(3), field(8))}
	var err error
	if tree.reserved, err = readReserved(data[min(uint64(field(4)), total):]); err != nil {
		return nil, err
	}
	tree.root, err = r.tree()
	return tree, err
}

// readReserved reads the memory reservation block, which ends with an entry of zeros.
func readReserved(data []byte) ([]reservation, error) {
	var list []reservation
	for ; len(data) >= 16; data = data[16:] {
		r := reservation{binary.BigEndian.Uint64(data), binary.BigEndian.Uint64(data[8:])}
		if r == (reservation{}) {
			return list, nil
		}
		list = append(list, r)
	}
	return nil, errTree
}

// A fdtReader reads the structure block.
type fdtReader struct{ structure, strings []byte }

// word reads 4 bytes.
func (r *fdtReader) word() (uint32, error) {
	if len(r.structure) < 4 {
		return 0, errTree
	}
	n := binary.BigEndian.Uint32(r.structure)
	r.structure = r.structure[4:]
	return n, nil
}

// bytes reads n bytes and what fills the last 4.
func (r *fdtReader) bytes(n uint32) ([]byte, error) {
	padded := (uint64(n) + 3) &^ 3
	if padded > uint64(len(r.structure)) {
		return nil, errTree
	}
	data := r.structure[:n:n]
	r.structure = r.structure[padded:]
	return data, nil
}

// token reads the next token that is not a NOP.
func (r *fdtReader) token() (uint32, error) {
	for {
		if t, err := r.word(); err != nil || t != nop {
			return t, err
		}
	}
}

func (r *fdtReader) tree() (*fdtNode, error) {
	if t, err := r.token(); err != nil || t != beginNode {
		return nil, errTree
	}
	root, err := r.node(1)
	if err != nil {
		return nil, err
	}
	if t, err := r.token(); err != nil || t != endTree {
		return nil, errTree
	}
	return root, nil
}

// node reads a node after its first token.
func (r *fdtReader) node(depth int) (*fdtNode, error) {
	length := bytes.IndexByte(r.structure, 0)
	if depth > fdtDepth || length < 0 {
		return nil, errTree
	}
	name, err := r.bytes(uint32(length) + 1)
	if err != nil {
		return nil, err
	}
	n := &fdtNode{name: string(name[:length])}
	for {
		t, err := r.token()
		if err != nil {
			return nil, err
		}
		switch t {
		case endNode:
			return n, nil
		case property:
			p, err := r.property()
			if err != nil {
				return nil, err
			}
			n.properties = append(n.properties, p)
		case beginNode:
			c, err := r.node(depth + 1)
			if err != nil {
				return nil, err
			}
			n.children = append(n.children, c)
		default:
			return nil, errTree
		}
	}
}

// property reads a property after its token.
func (r *fdtReader) property() (p fdtProperty, err error) {
	size, err := r.word()
	if err != nil {
		return p, err
	}
	name, err := r.word()
	if err != nil || uint64(name) >= uint64(len(r.strings)) {
		return p, errTree
	}
	end := bytes.IndexByte(r.strings[name:], 0)
	if end < 0 {
		return p, errTree
	}
	p.name = string(r.strings[name : int(name)+end])
	p.value, err = r.bytes(size)
	return p, err
}
