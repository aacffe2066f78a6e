package plasm

import (
	"bytes"
	"errors"
	"fmt"

	"github.com/phaseboot/phaseboot/cas"
)

// Limits of the declarations of a module, checked before the engine allocates memory for them. None is
// larger than its counterpart in the WebAssembly JavaScript interface (section 7,
// implementation-defined limits).
const (
	maxTypes        = 16 << 10
	maxValues       = 1000 // parameters, and results, of one type
	maxImports      = 1000
	maxFunctions    = 64 << 10
	maxTable        = 1 << 20 // entries at the start: 8 bytes each, outside the linear memory
	maxGlobals      = 16 << 10
	maxExports      = 16 << 10
	maxSegments     = 100_000 // data segments; Go's linker splits the data at runs of zeros
	maxElements     = 1 << 20 // entries of all element segments, passive ones too
	maxElementLists = 16 << 10
	maxName         = 64 << 10 // bytes of the name of an import or export
	maxBody         = 8 << 20  // bytes of one function
	maxLocals       = 50_000   // of one function
	maxAllLocals    = 1 << 20  // of all functions
	maxNesting      = 50_000   // nested blocks; a switch with n cases has n
	maxBranches     = 65_520   // targets of one br_table
)

// IDs of the sections of a module (WebAssembly Core 2.0, 5.5.2).
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

// errBounds is the error for a module that declares more than these limits.
var errBounds = errors.New("the module declares more than a job may")

// declarations are the sizes that a module declares.
type declarations struct {
	memory   int64  // bytes of linear memory at the start
	table    int64  // table entries at the start
	module   []byte // the module without custom sections, for the engine
	locals   int64  // of all functions
	elements int64  // entries of all element segments
}

var wasmMagic = []byte{0, 'a', 's', 'm', 1, 0, 0, 0}

// lint reads the declarations of a module in one pass. It allocates no memory by a count in the module.
// It returns errBounds for declarations above the limits, and cas.ErrCorrupt for bytes that are not a
// WebAssembly module. It removes custom sections (names, debug information).
func lint(module []byte) (declarations, error) {
	d := declarations{}
	if !bytes.HasPrefix(module, wasmMagic) {
		return d, fmt.Errorf("not a WebAssembly 1.0 module: %w; build it with GOOS=wasip1 GOARCH=wasm", cas.ErrCorrupt)
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
			s.fail("section %d is there twice", id)
			break
		}
		seen |= 1 << id
		parts = append(parts, from[:len(from)-len(s.rest)])
		s.err = d.section(id, body)
	}
	if d.module = module; custom {
		d.module = bytes.Join(parts, nil)
	}
	switch {
	case errors.Is(s.err, errBounds):
		return d, s.err
	case s.err != nil:
		return d, fmt.Errorf("WebAssembly module: %w: %w; build it again, or copy it again", s.err, cas.ErrCorrupt)
	}
	return d, nil
}

// section reads one section and checks that it ends with its last entry.
func (d *declarations) section(id byte, body []byte) error {
	read := map[byte]func(*scanner){
		sectionType:      func(s *scanner) { s.each("types", maxTypes, (*scanner).funcType) },
		sectionImport:    func(s *scanner) { s.each("imports", maxImports, d.imported) },
		sectionFunction:  func(s *scanner) { s.each("functions", maxFunctions, func(s *scanner) { s.u32() }) },
		sectionTable:     func(s *scanner) { s.each("tables", 1, d.tableType) },
		sectionMemory:    func(s *scanner) { s.each("memories", 1, d.memoryType) },
		sectionGlobal:    func(s *scanner) { s.each("globals", maxGlobals, (*scanner).global) },
		sectionExport:    func(s *scanner) { s.each("exports", maxExports, (*scanner).export) },
		sectionStart:     func(s *scanner) { s.u32() },
		sectionElement:   func(s *scanner) { s.each("element segments", maxElementLists, d.elementSegment) },
		sectionCode:      func(s *scanner) { s.each("functions", maxFunctions, d.function) },
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

// imported reads one import. checkImports checks its name.
func (d *declarations) imported(s *scanner) {
	s.name()
	s.name()
	switch kind := s.byte(); kind {
	case 0:
		s.u32()
	case 1:
		d.tableType(s)
	case 2:
		d.memoryType(s)
	case 3:
		s.byte()
		s.byte()
	default:
		s.fail("unknown kind of import %d", kind)
	}
}

func (d *declarations) tableType(s *scanner) {
	s.byte()
	d.table += s.limits()
}

func (d *declarations) memoryType(s *scanner) { d.memory += s.limits() * page }

// elementSegment reads one element segment. Its first number has flags: bit 0 passive or declarative,
// bit 1 explicit table or kind, bit 2 expressions.
func (d *declarations) elementSegment(s *scanner) {
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
	d.elements += s.each("entries of element segments", maxElements-d.elements, entry)
}

// function reads the locals and the instructions of one function.
func (d *declarations) function(s *scanner) {
	body := &scanner{rest: s.take(s.u32(), "function")}
	body.bound("bytes of a function", int64(len(body.rest)), maxBody)
	locals := int64(0)
	body.each("declarations of locals", maxLocals, func(b *scanner) {
		locals += int64(b.u32())
		b.byte()
		b.bound("locals of a function", locals, maxLocals)
	})
	d.locals += locals
	body.bound("locals of all functions", d.locals, maxAllLocals)
	body.code(maxNesting)
	if body.err == nil && len(body.rest) > 0 {
		body.fail("%d bytes after the end of a function", len(body.rest))
	}
	if s.err == nil {
		s.err = body.err
	}
}
