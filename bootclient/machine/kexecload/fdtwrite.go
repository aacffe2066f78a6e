package kexecload

import (
	"encoding/binary"
	"fmt"
)

// encode returns the bytes of a device tree.
func (t *fdt) encode() ([]byte, error) {
	w := fdtWriter{offsets: map[string]uint32{}}
	w.node(t.root)
	w.word(endTree)
	var reserved []byte
	for _, r := range append(t.reserved[:len(t.reserved):len(t.reserved)], reservation{}) {
		reserved = binary.BigEndian.AppendUint64(reserved, r.at)
		reserved = binary.BigEndian.AppendUint64(reserved, r.size)
	}
	structureAt := fdtHeader + len(reserved)
	stringsAt := structureAt + len(w.structure)
	total := stringsAt + len(w.strings)
	if total > maxTree {
		return nil, fmt.Errorf("device tree: %d bytes with the command line, the limit is %d", total, maxTree)
	}
	out := make([]byte, 0, total)
	for _, field := range []int{
		fdtMagic, total, structureAt, stringsAt, fdtHeader, fdtVersion, fdtVersion - 1, int(t.bootCPU), len(w.strings), len(w.structure),
	} {
		out = binary.BigEndian.AppendUint32(out, uint32(field))
	}
	out = append(append(out, reserved...), w.structure...)
	return append(out, w.strings...), nil
}

// A fdtWriter writes the structure block and the strings block.
type fdtWriter struct {
	structure, strings []byte
	offsets            map[string]uint32 // of the names of properties
}

func (w *fdtWriter) word(n uint32) { w.structure = binary.BigEndian.AppendUint32(w.structure, n) }

// bytes writes bytes and fills the last 4.
func (w *fdtWriter) bytes(data []byte) {
	w.structure = append(w.structure, data...)
	w.structure = append(w.structure, make([]byte, -len(data)&3)...)
}

func (w *fdtWriter) node(n *fdtNode) {
	w.word(beginNode)
	w.bytes(append([]byte(n.name), 0))
	for _, p := range n.properties {
		w.word(property)
		w.word(uint32(len(p.value)))
		w.word(w.offset(p.name))
		w.bytes(p.value)
	}
	for _, c := range n.children {
		w.node(c)
	}
	w.word(endNode)
}

// offset returns where a name is in the strings block. It adds a new one.
func (w *fdtWriter) offset(name string) uint32 {
	at, ok := w.offsets[name]
	if !ok {
		at = uint32(len(w.strings))
		w.offsets[name] = at
		w.strings = append(append(w.strings, name...), 0)
	}
	return at
}
