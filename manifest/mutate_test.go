package manifest

import (
	"encoding/json"
	"fmt"
	"maps"
	"testing"
)

// Every value of every golden file is replaced by every type of JSON value, and every key is removed
// or added. go-tuf must read what Lint accepts without a panic, and read the same values.
func TestGoTUFReadsEveryMutationThatLintAccepts(t *testing.T) {
	odd := []any{
		nil, true, "", "x", "2026-13-01T00:00:00Z", "ff",
		[]any{},
		[]any{nil},
		[]any{"x"},
		object{},
		object{"a": nil},
		object{"x": object{}},
		json.Number("0"), json.Number("-1"), json.Number("1.5"), json.Number("1e400"), json.Number("9007199254740993"), json.Number("3"),
	}
	accepted, tried := 0, 0
	each := func(kind Kind, folder string) {
		var top json64
		if err := json.Unmarshal(read(t, folder, kinds[kind]), &top); err != nil {
			t.Fatal(err)
		}
		mutate(top.v, odd, func(v any) {
			data, err := json.Marshal(v)
			if err != nil {
				t.Fatal(err)
			}
			tried++
			if Lint(kind, data) != nil {
				return
			}
			accepted++
			if err := parseAny(kind, data); err != nil {
				t.Errorf("%s: %v", kind, err)
			}
			decodeEach(kind, data)
		})
	}
	for kind := range kinds {
		each(kind, "repository")
	}
	each(KindRole, "submitters")
	each(KindRole, "rollout")
	if accepted < 100 || tried < 5000 {
		t.Errorf("%d of %d accepted: the mutations no longer test Lint", accepted, tried)
	}
}

// decodeEach decodes bytes that passed Lint in each way that their kind allows.
func decodeEach(kind Kind, data []byte) {
	switch kind {
	case KindRoot:
		_, _ = ParseRoot(data)
	case KindTargets:
		_, _ = ReadDelegations(data)
	case KindRole:
		if role, _, claim, err := readRole(data); err == nil {
			_, _ = (&delegation{paths: []string{"*/*/*"}}).decode("", role, claim.Channel, claim.Arch)
		}
	}
}

// mutate calls try with every tree that differs from v in one place.
func mutate(v any, odd []any, try func(any)) {
	for _, o := range odd {
		try(o)
	}
	switch v := v.(type) {
	case object:
		for k, child := range v {
			other := maps.Clone(v)
			mutate(child, odd, func(c any) {
				other[k] = c
				try(other)
			})
			delete(other, k)
			try(other)
		}
		for i, o := range odd {
			other := maps.Clone(v)
			other[fmt.Sprint("extra", i)] = o
			try(other)
		}
	case []any:
		for i := range v {
			other := append([]any{}, v...)
			mutate(v[i], odd, func(c any) {
				other[i] = c
				try(other)
			})
			try(append(append([]any{}, v[:i]...), v[i+1:]...))
			try(append(append([]any{}, v...), v[i]))
		}
	}
}
