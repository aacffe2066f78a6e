package plasm

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"

	"github.com/phaseboot/phaseboot/cas"
)

// What Run reads of a module before the engine sees it, as the binary format names
// it (WebAssembly Core 2.0, 5.5).
const (
	sectionTable  = 4
	sectionMemory = 5

	limitsHasMax = 0x01

	// maxTable bounds the entries that a table starts with: eight host bytes each,
	// outside the linear memory and its limit.
	maxTable = 1 << 20
)

// A want is what a module asks for before it runs.
type want struct {
	memory int64 // bytes of linear memory at the start
	table  int64 // table entries at the start
}

// lint reads how much a module asks for at its start. The engine would allocate it
// unasked. Bytes that are no WASM module wrap cas.ErrCorrupt.
func lint(module []byte) (want, error) {
	var w want
	magic := []byte{0, 'a', 's', 'm', 1, 0, 0, 0}
	if !bytes.HasPrefix(module, magic) {
		return w, fmt.Errorf("not a WebAssembly 1.0 module: %w; build it with GOOS=wasip1 GOARCH=wasm", cas.ErrCorrupt)
	}
	r := bytes.NewReader(module[len(magic):])
	for r.Len() > 0 {
		if err := w.section(r); err != nil {
			return w, fmt.Errorf("WebAssembly module: %w: %w", err, cas.ErrCorrupt)
		}
	}
	return w, nil
}

// section reads one section, and adds what it asks for.
func (w *want) section(r *bytes.Reader) error {
	id, err := r.ReadByte()
	if err != nil {
		return err
	}
	size, err := binary.ReadUvarint(r)
	if err != nil || size > uint64(r.Len()) {
		return fmt.Errorf("section %d is cut off", id)
	}
	if id != sectionTable && id != sectionMemory {
		_, err = r.Seek(int64(size), io.SeekCurrent)
		return err
	}
	body := make([]byte, size)
	if _, err := io.ReadFull(r, body); err != nil {
		return err
	}
	if id == sectionTable {
		return eachLimit(body, true, func(min int64) { w.table += min })
	}
	return eachLimit(body, false, func(min int64) { w.memory += min * page })
}

// eachLimit calls add with the minimum of every table or memory of a section.
func eachLimit(body []byte, typed bool, add func(min int64)) error {
	r := bytes.NewReader(body)
	count, err := binary.ReadUvarint(r)
	if err != nil || count > 1 {
		return fmt.Errorf("more than one table or memory, or a garbled count of them")
	}
	for range count {
		if typed {
			if _, err := r.ReadByte(); err != nil {
				return err
			}
		}
		min, err := readLimit(r)
		if err != nil {
			return err
		}
		add(min)
	}
	return nil
}

// readLimit reads one limits entry and returns its minimum.
func readLimit(r *bytes.Reader) (int64, error) {
	flag, err := r.ReadByte()
	if err != nil {
		return 0, err
	}
	min, err := binary.ReadUvarint(r)
	if err != nil || min > 1<<32-1 {
		return 0, fmt.Errorf("a table or memory has a garbled minimum")
	}
	if flag&limitsHasMax != 0 {
		if _, err := binary.ReadUvarint(r); err != nil {
			return 0, err
		}
	}
	return int64(min), nil
}
