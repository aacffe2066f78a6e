package plasm

// Opcodes with operands of variable length; the others are in ranges below (WebAssembly Core 2.0,
// 5.4).
const (
	codeBlock, codeLoop, codeIf = 0x02, 0x03, 0x04
	codeEnd                     = 0x0b
	codeBrTable                 = 0x0e
	codeSelectTyped             = 0x1c
	codeMisc                    = 0xfc
	codeVector                  = 0xfd
)

// code reads instructions up to the end opcode that closes them. Blocks may be nested up to the depth
// of most, which is 0 for an initial value.
func (s *scanner) code(most int64) {
	for depth := int64(1); depth > 0 && s.err == nil; {
		switch op := s.byte(); op {
		case codeEnd:
			depth--
		case codeBlock, codeLoop, codeIf:
			s.leb(5)
			depth++
			s.bound("blocks in blocks", depth-1, most)
		default:
			s.operands(op)
		}
	}
}

// operands skips the operands of another instruction.
func (s *scanner) operands(op byte) {
	switch {
	case op == codeBrTable:
		s.each("targets of a br_table", maxBranches, func(s *scanner) { s.u32() })
		s.u32()
	case op == codeSelectTyped:
		s.each("types of a select", 1, func(s *scanner) { s.byte() })
	case op == 0x11: // call_indirect
		s.u32()
		s.u32()
	case op == 0x0c, op == 0x0d, op == 0x10, op >= 0x20 && op <= 0x26, op == 0xd2:
		s.u32()
	case op >= 0x28 && op <= 0x3e:
		s.memArg()
	case op == 0x3f, op == 0x40, op == 0xd0:
		s.byte()
	case op == 0x41:
		s.leb(5)
	case op == 0x42:
		s.leb(10)
	case op == 0x43:
		s.skip(4)
	case op == 0x44:
		s.skip(8)
	case op == codeMisc:
		s.misc()
	case op == codeVector:
		s.vector()
	case op <= 0x01, op == 0x05, op == 0x0f, op == 0x1a, op == 0x1b, op >= 0x45 && op <= 0xc4, op == 0xd1:
	default:
		s.fail("unknown instruction %#x", op)
	}
}

// memArg skips the alignment and the offset of a memory access.
func (s *scanner) memArg() {
	s.u32()
	s.u32()
}

// misc skips the rest of an instruction with prefix 0xfc: a conversion or a bulk operation.
func (s *scanner) misc() {
	switch op := s.u32(); {
	case op <= 7:
	case op == 8, op == 10, op == 12, op == 14: // memory.init, memory.copy, table.init, table.copy
		s.u32()
		s.u32()
	case op <= 17:
		s.u32()
	default:
		s.fail("unknown instruction 0xfc %d", op)
	}
}

// vector skips the rest of an instruction with prefix 0xfd: a SIMD instruction.
func (s *scanner) vector() {
	switch op := s.u32(); {
	case op <= 11, op == 92, op == 93: // loads and stores
		s.memArg()
	case op == 12, op == 13: // v128.const, i8x16.shuffle
		s.skip(16)
	case op >= 21 && op <= 34: // lane index
		s.byte()
	case op >= 84 && op <= 91: // load or store of a lane
		s.memArg()
		s.byte()
	case op > 0xff:
		s.fail("unknown instruction 0xfd %d", op)
	}
}
