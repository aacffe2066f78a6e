package plasm

import (
	"bytes"
	"encoding/binary"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
)

// Opcodes for modules that no compiler emits, written byte by byte (WebAssembly Core 2.0, chapter 5).
const (
	opUnreachable = 0x00
	opBlock       = 0x02
	opLoop        = 0x03
	opEnd         = 0x0b
	opBr          = 0x0c
	opBrIf        = 0x0d
	opCall        = 0x10
	opDrop        = 0x1a
	opI32Const    = 0x41
	opI64Const    = 0x42
	opI32Ne       = 0x47
	opMemoryGrow  = 0x40

	typeVoid = 0x40
	typeI64  = 0x7e
)

// A hand is a module to build by hand. Its first own function is _start.
type hand struct {
	body   []byte // of _start, without the end opcode
	locals []byte // declaration; no locals if empty
	memory []byte // limits; one page if empty
	table  []byte // table type; no table if empty
	source string // module of an imported function, "" for none
	name   string // its name
}

func (h hand) bytes() []byte {
	funcs := byte(0)
	m := []byte("\x00asm\x01\x00\x00\x00")
	m = section(m, 1, []byte{1, 0x60, 0, 0}) // one type: no parameters, no results
	if h.source != "" {
		m = section(m, 2, join([]byte{1}, text(h.source), text(h.name), []byte{0, 0}))
		funcs++
	}
	m = section(m, 3, []byte{1, 0})
	if len(h.table) > 0 {
		m = section(m, 4, join([]byte{1}, h.table))
	}
	if len(h.memory) == 0 {
		h.memory = []byte{0, 1}
	}
	m = section(m, 5, join([]byte{1}, h.memory))
	m = section(m, 7, join([]byte{2}, text("_start"), []byte{0, funcs}, text("memory"), []byte{2, 0}))
	if len(h.locals) == 0 {
		h.locals = []byte{0}
	}
	code := join(h.locals, h.body, []byte{opEnd})
	return section(m, 10, join([]byte{1}, uleb(len(code)), code))
}

func section(m []byte, id byte, body []byte) []byte {
	return join(m, []byte{id}, uleb(len(body)), body)
}

func join(parts ...[]byte) []byte { return bytes.Join(parts, nil) }
func uleb(n int) []byte           { return binary.AppendUvarint(nil, uint64(n)) }
func text(s string) []byte        { return append(uleb(len(s)), s...) }

// built compiles a Go package of this repository to WebAssembly, once for all tests.
var built = func() func(t testing.TB, pkg string) []byte {
	var mu sync.Mutex
	done := map[string][]byte{}
	return func(t testing.TB, pkg string) []byte {
		t.Helper()
		mu.Lock()
		defer mu.Unlock()
		if done[pkg] == nil {
			done[pkg] = build(t, pkg)
		}
		return done[pkg]
	}
}()

func build(t testing.TB, pkg string) []byte {
	t.Helper()
	out := filepath.Join(t.TempDir(), "job.wasm")
	cmd := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-ldflags", "-s -w", "-o", out, pkg)
	cmd.Env = append(os.Environ(), "GOOS=wasip1", "GOARCH=wasm", "CGO_ENABLED=0")
	if output, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", cmd, err, output)
	}
	data, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	return data
}
