package wasmtest

import "bytes"

// Jobs returns the hostile jobs of plasm/jobs that no compiler makes, by name. Each is a WASI command.
//
//   - table declares a table of 10,000,000 entries, which take 80 MB outside the linear memory;
//   - imports declares 100,000 imports;
//   - compilebomb has 15.6 MB of instructions, the code of which takes more than 256 MiB.
func Jobs() map[string][]byte {
	nop := body(nil)
	return map[string][]byte{
		"table": module(oneType, function, section(4, join([]byte{1, 0x70, 0}, uleb(10_000_000))), memory(1), startMemory(0), code(nop)),
		"imports": module(oneType, section(2, vector(100_000, join(text("env"), text("f"), []byte{0, 0}))),
			function, memory(1), startMemory(100_000), code(nop)),
		"compilebomb": module(oneType, section(3, vector(2, []byte{0})), memory(1), startMemory(0),
			section(10, vector(2, body(bytes.Repeat([]byte{0x41, 0, 0x1a}, 2_600_000))))),
	}
}

// memory declares a memory of some pages.
func memory(pages int) []byte { return section(5, join([]byte{1, 0}, uleb(pages))) }

// startMemory exports function n as _start, and the memory.
func startMemory(n int) []byte {
	return section(7, join([]byte{2}, text("_start"), []byte{0}, uleb(n), text("memory"), []byte{2, 0}))
}
