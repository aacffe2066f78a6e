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

// TestBombsAreRefusedBeforeTheEngine: what is beyond the bounds is refused by its
// declaration, and what is within them gets to the engine.
func TestBombsAreRefusedBeforeTheEngine(t *testing.T) {
	for _, bomb := range wasmtest.Bombs() {
		_, err := lint(bomb.Module)
		if want := slices.Contains(bomb.Reasons, ReasonBounds); errors.Is(err, errBounds) != want || !want && err != nil {
			t.Errorf("%s: got %v, want a refusal: %t", bomb.Name, err, want)
		}
	}
}

// TestRefusalSaysWhatIsTooMuch: the receipt's reason is bounds, and the words have both
// numbers.
func TestRefusalSaysWhatIsTooMuch(t *testing.T) {
	o := mustRun(t, "x", hand{locals: join([]byte{1}, uleb(50_001), []byte{typeI64})}.bytes(), tight, io.Discard)
	want := "section 10: the module declares more than a job may: 50001 locals of a function, the limit is 50000"
	if o.Reason != ReasonBounds || o.Detail != want {
		t.Errorf("ended by %s: %s; want %s", o.Reason, o.Detail, want)
	}
}

// TestEngineGetsNoCustomSection: names and debug information are for people.
func TestEngineGetsNoCustomSection(t *testing.T) {
	plain := hand{}.bytes()
	for _, with := range [][]byte{
		section(plain, 0, text("name")),
		join(wasmMagic, section(nil, 0, text("first")), plain[len(wasmMagic):]),
	} {
		w, err := lint(with)
		if err != nil || string(w.module) != string(plain) {
			t.Errorf("%q, %v; want %q", w.module, err, plain)
		}
	}
}

// TestHonestModulesAreFarFromTheBounds: what Go's compiler writes passes.
func TestHonestModulesAreFarFromTheBounds(t *testing.T) {
	for _, pkg := range []string{"./jobs/hello", "./testdata/greedy"} {
		w, err := lint(built(t, pkg))
		if err != nil || w.locals > maxAllLocals/4 || w.lists > maxElements/4 {
			t.Errorf("%s: %d locals, %d elements, %v", pkg, w.locals, w.lists, err)
		}
	}
}

// engineCost bounds what the engine allocates in total for a module that the lint
// accepts: bytes for each byte of the module, and for each local, and at all.
const (
	costOfByte  = 2000
	costOfLocal = 400
	costAtAll   = 8 << 20
)

// compile is CompileModule; that wazero panics on some modules is an outcome of a run.
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

// allocated is how much this process has allocated so far, in bytes.
func allocated() uint64 {
	sample := []metrics.Sample{{Name: "/gc/heap/allocs:bytes"}}
	metrics.Read(sample)
	return sample[0].Value.Uint64()
}

// FuzzLint holds our look at a module against the engine's: what both accept starts
// with no more memory than we saw, and what we accept costs the engine no more than
// in proportion to its size and its locals.
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
		asks, err := lint(module)
		if err != nil {
			return
		}
		before := allocated()
		engine := wazero.NewRuntimeWithConfig(t.Context(), config())
		defer engine.Close(t.Context())
		m, err := compile(t, engine, asks.module)
		if cost, most := int64(allocated()-before), costAtAll+costOfByte*int64(len(module))+costOfLocal*asks.locals; cost > most {
			t.Errorf("%d bytes and %d locals cost the engine %d bytes, want at most %d", len(module), asks.locals, cost, most)
		}
		if err != nil {
			return
		}
		for name, mem := range m.ExportedMemories() {
			if len(m.ImportedMemories()) == 0 && int64(mem.Min())*page > asks.memory {
				t.Errorf("memory %q starts with %d pages, seen were %d bytes", name, mem.Min(), asks.memory)
			}
		}
	})
}
