package plasm

import (
	"bytes"
	"errors"
	"fmt"

	"github.com/phaseboot/phaseboot/cas"
)

// Bounds of what a module may declare, each before the engine allocates for it. Where
// the WebAssembly JavaScript interface (section 7, implementation-defined limits) has a
// number, that number or a smaller one.
const (
	maxTypes        = 16 << 10
	maxValues       = 1000 // parameters, and results, of one type
	maxImports      = 1000
	maxFunctions    = 64 << 10
	maxTable        = 1 << 20 // entries at the start: eight host bytes each, outside the linear memory
	maxGlobals      = 16 << 10
	maxExports      = 16 << 10
	maxSegments     = 100_000 // data segments; Go's linker makes one of each stretch between zeros
	maxElements     = 1 << 20 // entries of all element segments, passive ones too
	maxElementLists = 16 << 10
	maxName         = 64 << 10 // bytes of the name of an import or export
	maxBody         = 8 << 20  // bytes of one function
	maxLocals       = 50_000   // of one function
	maxAllLocals    = 1 << 20  // of all functions
	maxNesting      = 50_000   // blocks in blocks; a switch of n cases is n deep
	maxBranches     = 65_520   // targets of one br_table
)

// Sections of a module, WebAssembly Core 2.0, 5.5.2.
const (
	sectionCustom = iota
	sectionType
	sectionImport
	sectionFunction
	sectionTable
	sectionMemory
	sectionGlobal
	sectionExport
	sectionStart
	sectionElement
	sectionCode
	sectionData
	sectionDataCount
)

// errBounds marks a module that declares more than the bounds above.
var errBounds = errors.New("the module declares more than a job may")

// A want is what a module asks for before it runs.
type want struct {
	memory int64  // bytes of linear memory at the start
	table  int64  // table entries at the start
	module []byte // what the engine gets: the module without custom sections
	locals int64
	lists  int64 // entries of all element segments
}

var wasmMagic = []byte{0, 'a', 's', 'm', 1, 0, 0, 0}

// lint reads what a module declares, in one pass and without allocating for any count
// in it. It returns errBounds when that is too much, and cas.ErrCorrupt for bytes that
// are no WASM module. Custom sections (names, debug information) do not reach the engine.
func lint(module []byte) (want, error) {
	w := want{}
	if !bytes.HasPrefix(module, wasmMagic) {
		return w, fmt.Errorf("not a WebAssembly 1.0 module: %w; build it with GOOS=wasip1 GOARCH=wasm", cas.ErrCorrupt)
	}
	s := &scanner{rest: module[len(wasmMagic):]}
	parts := [][]byte{wasmMagic}
	seen, custom := 0, false
	for len(s.rest) > 0 && s.err == nil {
		from := s.rest
		id := s.byte()
		body := s.take(s.u32(), "section")
		if id == sectionCustom {
			custom = true
			continue
		}
		if seen&(1<<id) != 0 {
			s.fail("section %d comes twice", id)
			break
		}
		seen |= 1 << id
		parts = append(parts, from[:len(from)-len(s.rest)])
		s.err = w.section(id, body)
	}
	if w.module = module; custom {
		w.module = bytes.Join(parts, nil)
	}
	switch {
	case errors.Is(s.err, errBounds):
		return w, s.err
	case s.err != nil:
		return w, fmt.Errorf("WebAssembly module: %w: %w", s.err, cas.ErrCorrupt)
	}
	return w, nil
}

// section reads one section to its last byte.
func (w *want) section(id byte, body []byte) error {
	read := map[byte]func(*scanner){
		sectionType:      func(s *scanner) { s.each("types", maxTypes, (*scanner).funcType) },
		sectionImport:    func(s *scanner) { s.each("imports", maxImports, w.imported) },
		sectionFunction:  func(s *scanner) { s.each("functions", maxFunctions, func(s *scanner) { s.u32() }) },
		sectionTable:     func(s *scanner) { s.each("tables", 1, w.tableType) },
		sectionMemory:    func(s *scanner) { s.each("memories", 1, w.memoryType) },
		sectionGlobal:    func(s *scanner) { s.each("globals", maxGlobals, (*scanner).global) },
		sectionExport:    func(s *scanner) { s.each("exports", maxExports, (*scanner).export) },
		sectionStart:     func(s *scanner) { s.u32() },
		sectionElement:   func(s *scanner) { s.each("element segments", maxElementLists, w.elements) },
		sectionCode:      func(s *scanner) { s.each("functions", maxFunctions, w.function) },
		sectionData:      func(s *scanner) { s.each("data segments", maxSegments, (*scanner).data) },
		sectionDataCount: func(s *scanner) { s.u32() },
	}[id]
	if read == nil {
		return fmt.Errorf("unknown section %d", id)
	}
	s := &scanner{rest: body}
	read(s)
	if s.err == nil && len(s.rest) > 0 {
		return fmt.Errorf("section %d: %d bytes are left over", id, len(s.rest))
	}
	if s.err != nil {
		return fmt.Errorf("section %d: %w", id, s.err)
	}
	return nil
}

// imported reads one import; what it names is judged by granted.
func (w *want) imported(s *scanner) {
	s.name()
	s.name()
	switch kind := s.byte(); kind {
	case 0:
		s.u32()
	case 1:
		w.tableType(s)
	case 2:
		w.memoryType(s)
	case 3:
		s.byte()
		s.byte()
	default:
		s.fail("unknown kind of import %d", kind)
	}
}

func (w *want) tableType(s *scanner) {
	s.byte()
	w.table += s.limits()
}

func (w *want) memoryType(s *scanner) { w.memory += s.limits() * page }

// elements reads one element segment. Its first number says which parts follow: bit 0
// passive or declared, bit 1 an explicit table or kind, bit 2 expressions.
func (w *want) elements(s *scanner) {
	flags := s.u32()
	if flags > 7 {
		s.fail("unknown kind of element segment %d", flags)
	}
	if flags&1 == 0 {
		if flags&2 != 0 {
			s.u32()
		}
		s.code(0)
	}
	if flags&3 != 0 {
		s.byte()
	}
	entry := func(s *scanner) { s.u32() }
	if flags&4 != 0 {
		entry = func(s *scanner) { s.code(0) }
	}
	w.lists += s.each("entries of element segments", maxElements-w.lists, entry)
}

// function reads one function: its locals and its instructions.
func (w *want) function(s *scanner) {
	body := &scanner{rest: s.take(s.u32(), "function")}
	body.bound("bytes of a function", int64(len(body.rest)), maxBody)
	own := int64(0)
	body.each("declarations of locals", maxLocals, func(b *scanner) {
		own += int64(b.u32())
		b.byte()
		b.bound("locals of a function", own, maxLocals)
	})
	w.locals += own
	body.bound("locals of all functions", w.locals, maxAllLocals)
	body.code(maxNesting)
	if body.err == nil && len(body.rest) > 0 {
		body.fail("%d bytes after the end of a function", len(body.rest))
	}
	if s.err == nil {
		s.err = body.err
	}
}
