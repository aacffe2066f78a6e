// Package wasmtest makes hostile WebAssembly modules: small files that use much memory or time of their
// host. Tests of plasm and of plasmd run them. Start at Bombs.
package wasmtest

import (
	"bytes"
	"encoding/binary"
	"sync"
)

// A Bomb is a hostile module.
type Bomb struct {
	Name    string
	Module  []byte
	Reasons []string // possible reasons of the end of a run, as in a receipt
}

var (
	refused = []string{"bounds"}
	small   = []string{"memory", "exit", "timeout"} // within the limits of declarations: the limits of the process apply
	endless = []string{"timeout"}
	long    = []string{"timeout", "memory"} // its code is large: under a low limit the compiler may need too much memory
)

// Bombs returns the modules, made once: some are just within the limits of declarations, others far
// above them. A caller must not change them.
var Bombs = sync.OnceValue(func() []Bomb {
	nop := body(nil)
	return []Bomb{
		{"1,000 functions with 50,000 locals", functions(1000, body(nil, 50_000)), refused},
		{"4,000 functions with 50,000 locals", functions(4000, body(nil, 50_000)), refused},
		{"20 functions with 50,000 locals", functions(20, body(nil, 50_000)), small},
		{"1 function with 2^32-1 locals", functions(1, body(nil, 1<<32-1)), refused},
		{"500,000 nested blocks", functions(1, body(nested(500_000))), refused},
		{"50,000 nested blocks", functions(1, body(nested(49_999))), small},
		{"200,000 types", module(section(1, vector(200_000, types(1))), function, start, code(nop)), refused},
		{"16,384 types of 1,000 parameters", module(section(1, vector(16<<10, types(1000))), function, start, code(nop)), small},
		{"a type of 100,000 results", module(section(1, vector(1, types(100_000))), function, start, code(nop)), refused},
		{"1,000,000 functions", functions(1_000_000, nop), refused},
		{"65,536 functions", functions(64<<10, nop), small},
		{"1,000,000 globals", module(oneType, function, section(6, vector(1_000_000, global)), start, code(nop)), refused},
		{"16,384 globals", module(oneType, function, section(6, vector(16<<10, global)), start, code(nop)), small},
		{"10,000,000 passive elements", module(oneType, function, table, start, section(9, vector(1, passive(10_000_000))), code(nop)), refused},
		{"1,048,576 passive elements", module(oneType, function, table, start, section(9, vector(1, passive(1<<20))), code(nop)), []string{"trap", "memory", "timeout"}},
		{"1,000,000 passive element segments", module(oneType, function, table, start, section(9, vector(1_000_000, passive(0))), code(nop)), refused},
		{"1,000,000 passive data segments", module(oneType, function, start, section(12, uleb(1_000_000)), code(nop), section(11, vector(1_000_000, []byte{1, 0}))), refused},
		{"100,000 passive data segments", module(oneType, function, start, section(12, uleb(100_000)), code(nop), section(11, vector(100_000, []byte{1, 0}))), small},
		{"100,000 exports", module(oneType, function, section(7, exports(100_000)), code(nop)), refused},
		{"100,000 imports", module(oneType, section(2, vector(100_000, []byte{1, 'e', 1, 'f', 0, 0})), function, start, code(nop)), refused},
		{"1,000,000 targets of a br_table", functions(1, body(branches(1_000_000))), refused},
		{"a count of 2^32-1 functions without any function", module(oneType, section(3, uleb(1<<32-1))), refused},
		{"8,000,000 bytes of instructions", functions(1, body(bytes.Repeat([]byte{0x41, 0, 0x1a}, 2_600_000))), small},
		{"1,000 results from each of 100,000 calls", calls(), small},
		{"500,000 names of functions", append(functions(1, nop), names(500_000)...), []string{"exit"}},
		{"5,000 times memory.fill of 64 MiB", straight(5_000, fill()), endless},
		{"5,000 times memory.copy of 32 MiB", straight(5_000, copyHalf()), endless},
		{"20,000 times memory.fill of 64 MiB", straight(20_000, fill()), long},
		{"20,000 times memory.copy of 32 MiB", straight(20_000, copyHalf()), long},
		{"memory.fill of 64 MiB in a loop", functions(1, body(join([]byte{0x03, 0x40}, fill(), []byte{0x0c, 0, 0x0b}))), endless},
	}
})

var (
	oneType  = section(1, []byte{1, 0x60, 0, 0}) // no parameters, no results
	function = section(3, []byte{1, 0})
	table    = section(4, []byte{1, 0x70, 0, 1})
	start    = section(7, join([]byte{1}, text("_start"), []byte{0, 0}))
	global   = []byte{0x7f, 0, 0x41, 0, 0x0b} // i32, constant, 0
)

// functions returns a command with n equal functions and a memory of 64 MiB.
func functions(n int, one []byte) []byte {
	return module(oneType, section(3, vector(n, []byte{0})), section(5, join([]byte{1, 0}, uleb(1024))), start,
		section(10, vector(n, one)))
}

// body returns one function with 64-bit locals.
func body(instructions []byte, locals ...int) []byte {
	declared := uleb(len(locals))
	for _, n := range locals {
		declared = join(declared, uleb(n), []byte{0x7e})
	}
	b := join(declared, instructions, []byte{0x0b})
	return join(uleb(len(b)), b)
}

func nested(n int) []byte {
	return join(bytes.Repeat([]byte{0x02, 0x40}, n), bytes.Repeat([]byte{0x0b}, n))
}

// types returns a type with n 32-bit results or, if n is the limit 1000, with n 32-bit parameters.
func types(n int) []byte {
	if n == 1000 {
		return join([]byte{0x60}, vector(n, []byte{0x7f}), []byte{0})
	}
	return join([]byte{0x60, 0}, vector(n, []byte{0x7f}))
}

func passive(n int) []byte { return join([]byte{1, 0}, vector(n, []byte{0})) }

func branches(n int) []byte {
	return join([]byte{0x41, 0, 0x0e}, vector(n, []byte{0}), []byte{0})
}

func exports(n int) []byte {
	all := uleb(n)
	for i := range n {
		all = binary.BigEndian.AppendUint32(append(all, 4), uint32(i))
		all = append(all, 0, 0)
	}
	return all
}

func names(n int) []byte {
	entries := uleb(n)
	for i := range n {
		entries = append(entries, uleb(i)...)
		entries = append(entries, 1, 'n')
	}
	return section(0, join(text("name"), section(1, entries)))
}

// calls returns a module that leaves the results of each of its calls on the stack.
func calls() []byte {
	thousand := bytes.Repeat([]byte{0x41, 0}, 1000)
	return module(
		section(1, join([]byte{2, 0x60, 0, 0, 0x60, 0}, vector(1000, []byte{0x7f}))),
		section(3, []byte{2, 0, 1}), start,
		section(10, join([]byte{2}, body(join(bytes.Repeat([]byte{0x10, 1}, 100_000), []byte{0x00})), body(thousand))))
}

// straight returns a module with a sequence of n bulk operations without loops and calls, which the
// engine does not interrupt.
func straight(n int, operation []byte) []byte {
	return functions(1, body(bytes.Repeat(operation, n)))
}

func fill() []byte { return bulk(0, 0, 64<<20, 0xfc, 11, 0) }

func copyHalf() []byte { return bulk(0, 32<<20, 32<<20, 0xfc, 10, 0, 0) }

// bulk returns an operation with three positive constants as operands.
func bulk(to, from, size int, op ...byte) []byte {
	return join([]byte{0x41}, sleb(to), []byte{0x41}, sleb(from), []byte{0x41}, sleb(size), op)
}

// sleb encodes a positive signed LEB128 number.
func sleb(n int) []byte {
	b := uleb(n)
	if last := len(b) - 1; b[last]&0x40 != 0 {
		b[last] |= 0x80
		b = append(b, 0)
	}
	return b
}

func code(bodies ...[]byte) []byte { return section(10, join(uleb(len(bodies)), join(bodies...))) }

func vector(n int, one []byte) []byte { return join(uleb(n), bytes.Repeat(one, n)) }

func module(sections ...[]byte) []byte {
	return join([]byte("\x00asm\x01\x00\x00\x00"), join(sections...))
}

func section(id byte, body []byte) []byte { return join([]byte{id}, uleb(len(body)), body) }

func text(s string) []byte        { return join(uleb(len(s)), []byte(s)) }
func join(parts ...[]byte) []byte { return bytes.Join(parts, nil) }
func uleb(n int) []byte           { return binary.AppendUvarint(nil, uint64(n)) }
