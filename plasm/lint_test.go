package plasm

import (
	"errors"
	"fmt"
	"io"
	"runtime/metrics"
	"slices"
	"strings"
	"testing"

	"github.com/tetratelabs/wazero"

	"github.com/phaseboot/phaseboot/plasm/wasmtest"
)

// TestBombsAreRefusedBeforeTheEngine: lint refuses modules above the limits and accepts those within them.
func TestBombsAreRefusedBeforeTheEngine(t *testing.T) {
	for _, bomb := range wasmtest.Bombs() {
		_, err := lint(bomb.Module)
		if want := slices.Contains(bomb.Reasons, ReasonBounds); errors.Is(err, errBounds) != want || !want && err != nil {
			t.Errorf("%s: got %v, want a refusal: %t", bomb.Name, err, want)
		}
	}
}

// TestARefusalNamesTheLimit: the receipt's reason is bounds, and the detail has both numbers.
func TestARefusalNamesTheLimit(t *testing.T) {
	o := mustRun(t, "x", hand{locals: join([]byte{1}, uleb(50_001), []byte{typeI64})}.bytes(), tight, io.Discard)
	want := "section 10: the module declares more than a job may: 50001 locals of a function, the limit is 50000"
	if o.Reason != ReasonBounds || o.Detail != want {
		t.Errorf("ended by %s: %s; want %s", o.Reason, o.Detail, want)
	}
}

// TestEngineGetsNoCustomSection: lint removes names and debug information.
func TestEngineGetsNoCustomSection(t *testing.T) {
	plain := hand{}.bytes()
	for _, with := range [][]byte{
		section(plain, 0, text("name")),
		join(wasmMagic, section(nil, 0, text("first")), plain[len(wasmMagic):]),
	} {
		d, err := lint(with)
		if err != nil || string(d.module) != string(plain) {
			t.Errorf("%q, %v; want %q", d.module, err, plain)
		}
	}
}

// TestModulesOfTheGoCompilerAreFarBelowTheLimits: at least by a factor of four.
func TestModulesOfTheGoCompilerAreFarBelowTheLimits(t *testing.T) {
	for _, pkg := range []string{"./jobs/hello", "./testdata/greedy"} {
		d, err := lint(built(t, pkg))
		if err != nil || d.locals > maxAllLocals/4 || d.elements > maxElements/4 {
			t.Errorf("%s: %d locals, %d elements, %v", pkg, d.locals, d.elements, err)
		}
	}
}

// Limits of what the engine allocates for a module that lint accepts, in bytes.
const (
	costOfByte  = 2000    // for each byte of the module
	costOfLocal = 400     // for each local
	costOfAny   = 8 << 20 // for any module
)

// compile calls CompileModule and turns a panic into an error: wazero panics on some modules.
func compile(t *testing.T, engine wazero.Runtime, module []byte) (m wazero.CompiledModule, err error) {
	defer func() {
		if v := recover(); v != nil {
			err = fmt.Errorf("the engine failed: %v", v)
		}
	}()
	return engine.CompileModule(t.Context(), module)
}

// TestEnginePanicHasAnOutcome runs a module on which wazero v1.12.0 panics.
func TestEnginePanicHasAnOutcome(t *testing.T) {
	module := section(wasmMagic, sectionType, []byte{2, 0x60, 0, 0, 0x60, 0, 0})
	module = section(module, sectionFunction, []byte{1, 0})
	module = section(module, sectionExport, join([]byte{1}, text("_start"), []byte{0, 0}))
	module = section(module, sectionElement, []byte{1, 1, 0, 1, 0}) // passive: without an offset
	module = section(module, sectionCode, []byte{1, 2, 0, opEnd})
	o := mustRun(t, "x", module, tight, io.Discard)
	if o.Reason != ReasonTrap || !strings.Contains(o.Detail, "the engine failed") {
		t.Errorf("ended by %s: %s", o.Reason, o.Detail)
	}
}

// allocated returns how much this process has allocated so far, in bytes.
func allocated() uint64 {
	sample := []metrics.Sample{{Name: "/gc/heap/allocs:bytes"}}
	metrics.Read(sample)
	return sample[0].Value.Uint64()
}

// FuzzLint compares lint with the engine. A module that both accept starts with no more memory than lint
// has read, and the engine allocates no more than in proportion to the module's size and locals.
func FuzzLint(f *testing.F) {
	f.Add(hand{}.bytes())
	f.Add(hand{memory: join([]byte{0}, uleb(1<<16)), table: join([]byte{0x70, 1}, uleb(7), uleb(9))}.bytes())
	f.Add(imports(2, 0, 1))
	f.Add(tree())
	for _, bomb := range wasmtest.Bombs() {
		if len(bomb.Module) < 4<<10 {
			f.Add(bomb.Module)
		}
	}
	f.Fuzz(func(t *testing.T, module []byte) {
		declared, err := lint(module)
		if err != nil {
			return
		}
		before := allocated()
		engine := wazero.NewRuntimeWithConfig(t.Context(), config(EngineInterpreter))
		defer engine.Close(t.Context())
		m, err := compile(t, engine, declared.module)
		if cost, most := int64(allocated()-before), costOfAny+costOfByte*int64(len(module))+costOfLocal*declared.locals; cost > most {
			t.Errorf("%d bytes and %d locals cost the engine %d bytes, want at most %d", len(module), declared.locals, cost, most)
		}
		if err != nil {
			return
		}
		for name, mem := range m.ExportedMemories() {
			if len(m.ImportedMemories()) == 0 && int64(mem.Min())*page > declared.memory {
				t.Errorf("memory %q starts with %d pages, lint has read %d bytes", name, mem.Min(), declared.memory)
			}
		}
	})
}
