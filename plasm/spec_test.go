package plasm

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// TestSpecKeepsItsMeaningAsJSON: durations are integers of milliseconds, and unknown fields of the limits
// are refused.
func TestSpecKeepsItsMeaningAsJSON(t *testing.T) {
	want := Spec{
		Args: []string{"-n", "3"}, Env: map[string]string{"LANG": "C"},
		Grants: Grants{Stdin: true, Scratch: 1 << 20, Artifacts: []string{"rootfs"}, Clock: true, Random: true},
		Limits: Limits{Memory: 64 << 20, Timeout: 1500 * time.Millisecond, Output: 10, CPU: time.Second, Compile: 2 * time.Second, Module: 1 << 20},
		Engine: EngineCompiler,
	}
	data, err := json.Marshal(want)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(data), `"limits":{"memory_bytes":67108864,"timeout_ms":1500,"output_bytes":10,"cpu_ms":1000,"compile_ms":2000,"module_bytes":1048576}`) {
		t.Errorf("%s", data)
	}
	var got Spec
	if err := json.Unmarshal(data, &got); err != nil || !cmp.Equal(got, want) {
		t.Errorf("%v: %s", err, cmp.Diff(want, got))
	}
	for _, bad := range []string{`{"limits":{"memory":1}}`, `{"limits":{"timeout_ms":-1}}`, `{"limits":{"timeout_ms":9223372036854775807}}`, `{"limits":{"timeout_ms":1.5}}`} {
		if err := json.Unmarshal([]byte(bad), &got); err == nil {
			t.Errorf("%s is accepted", bad)
		}
	}
}

func TestSpecsOutOfRangeAreRefused(t *testing.T) {
	tests := map[string]func(*Spec){
		"zero byte in an argument":   func(s *Spec) { s.Args = []string{"a\x00b"} },
		"argument that is no UTF-8":  func(s *Spec) { s.Args = []string{"\xff"} },
		"variable that is no UTF-8":  func(s *Spec) { s.Env = map[string]string{"A": "\xff"} },
		"many arguments":             func(s *Spec) { s.Args = make([]string, maxArgs+1) },
		"long argument":              func(s *Spec) { s.Args = []string{strings.Repeat("x", maxArgBytes)} },
		"variable without a name":    func(s *Spec) { s.Env = map[string]string{"": "x"} },
		"variable with =":            func(s *Spec) { s.Env = map[string]string{"A=B": "x"} },
		"negative scratch folder":    func(s *Spec) { s.Grants.Scratch = -1 },
		"huge scratch folder":        func(s *Spec) { s.Grants.Scratch = maxScratch + page },
		"artifact outside":           func(s *Spec) { s.Grants.Artifacts = []string{"../etc"} },
		"artifact of the whole":      func(s *Spec) { s.Grants.Artifacts = []string{"."} },
		"artifact twice":             func(s *Spec) { s.Grants.Artifacts = []string{"a", "a"} },
		"artifact and its folder":    func(s *Spec) { s.Grants.Artifacts = []string{"job", "job/a.wasm"} },
		"many artifacts":             func(s *Spec) { s.Grants.Artifacts = make([]string, maxArtifacts+1) },
		"unknown engine":             func(s *Spec) { s.Engine = "quick" },
		"part of a millisecond":      func(s *Spec) { s.Limits.Timeout++ },
		"negative limit of the CPU":  func(s *Spec) { s.Limits.CPU = -1 },
		"memory of a part of a page": func(s *Spec) { s.Limits.Memory++ },
	}
	for name, edit := range tests {
		s := DefaultSpec()
		edit(&s)
		if err := s.Check(); err == nil || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := DefaultSpec().Check(); err != nil {
		t.Error(err)
	}
}
