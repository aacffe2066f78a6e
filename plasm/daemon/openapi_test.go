package daemon

import (
	"encoding/json"
	"fmt"
	"net/http/httptest"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/phaseboot/phaseboot/plasm"
	"github.com/phaseboot/phaseboot/plasm/api"
)

// A schema is the part of JSON Schema that the description uses.
type schema struct {
	Ref        string            `json:"$ref"`
	Type       string            `json:"type"`
	Properties map[string]schema `json:"properties"`
	Required   []string          `json:"required"`
	Items      *schema           `json:"items"`
	Enum       []string          `json:"enum"`
	Pattern    string            `json:"pattern"`
	Additional any               `json:"additionalProperties"`
}

type content map[string]struct {
	Schema schema `json:"schema"`
}

type operation struct {
	RequestBody struct {
		Content content `json:"content"`
	} `json:"requestBody"`
	Responses map[string]struct {
		Content content `json:"content"`
	} `json:"responses"`
}

type description struct {
	Paths      map[string]map[string]json.RawMessage `json:"paths"`
	Components struct {
		Schemas map[string]schema `json:"schemas"`
	} `json:"components"`
}

func described(t *testing.T) (d description) {
	t.Helper()
	check(t, json.Unmarshal(api.OpenAPI, &d))
	return d
}

// match returns how a value breaks a schema.
func (d description) match(at string, s schema, v any) (faults []string) {
	if name, ok := strings.CutPrefix(s.Ref, "#/components/schemas/"); ok {
		s = d.Components.Schemas[name]
	}
	fault := func(format string, args ...any) { faults = append(faults, at+": "+fmt.Sprintf(format, args...)) }
	kind := map[string]string{"map[string]interface {}": "object", "[]interface {}": "array", "string": "string", "bool": "boolean", "float64": "integer"}[fmt.Sprintf("%T", v)]
	if kind != s.Type {
		fault("%T, want %s", v, s.Type)
		return faults
	}
	switch v := v.(type) {
	case map[string]any:
		for _, name := range s.Required {
			if _, ok := v[name]; !ok {
				fault("no %s", name)
			}
		}
		for name, field := range v {
			if of, ok := s.Properties[name]; ok {
				faults = append(faults, d.match(at+"."+name, of, field)...)
			} else if s.Additional == false {
				fault("%s is not described", name)
			}
		}
	case []any:
		for i, item := range v {
			faults = append(faults, d.match(fmt.Sprint(at, "[", i, "]"), *s.Items, item)...)
		}
	case string:
		if s.Enum != nil && !slices.Contains(s.Enum, v) || s.Pattern != "" && !regexp.MustCompile(s.Pattern).MatchString(v) {
			fault("%q is none of %v %s", v, s.Enum, s.Pattern)
		}
	}
	return faults
}

// TestTheServerAnswersAsItIsDescribed calls each path and method of the description, and compares each answer
// with its schema.
func TestTheServerAnswersAsItIsDescribed(t *testing.T) {
	d := described(t)
	w := start(t, t.TempDir(), nil)
	a := ask(w.d.Local(), form("job", request("hello"), "module", "m", "input", "i"))
	w.done(a.job.ID)
	w.d.SetPeer("peer", func() []string { return []string{"/ip4/192.0.2.1/tcp/1"} })
	for path, methods := range d.Paths {
		for method, raw := range methods {
			if method == "parameters" {
				continue
			}
			var op operation
			check(t, json.Unmarshal(raw, &op))
			r := httptest.NewRequest(strings.ToUpper(method), strings.ReplaceAll(path, "{id}", a.job.ID), nil)
			if op.RequestBody.Content != nil {
				r = form("job", request("hello"), "module", "m", "input", "i")
			}
			got := httptest.NewRecorder()
			w.d.Local().ServeHTTP(got, r)
			kind, _, _ := strings.Cut(got.Header().Get("Content-Type"), ";")
			want, ok := op.Responses[fmt.Sprint(got.Code)].Content[kind]
			if !ok {
				t.Errorf("%s %s: status %d with %s is not described", method, path, got.Code, kind)
				continue
			}
			for line := range strings.SplitSeq(strings.TrimSpace(got.Body.String()), "\n") {
				var v any
				if kind == "text/plain" || want.Schema.Ref == "" {
					continue
				}
				check(t, json.Unmarshal([]byte(line), &v))
				for _, fault := range d.match(method+" "+path, want.Schema, v) {
					t.Error(fault)
				}
			}
		}
	}
	var v any
	check(t, json.Unmarshal([]byte(get(w.d.Local(), api.Jobs+"/0").body), &v))
	for _, fault := range d.match("error", d.Components.Schemas["Error"], v) {
		t.Error(fault)
	}
}

// TestTheDescriptionHasTheFieldsOfTheTypes compares the description with the Go types, field by field.
func TestTheDescriptionHasTheFieldsOfTheTypes(t *testing.T) {
	d := described(t)
	for name, v := range map[string]any{
		"Job": api.Job{}, "List": api.List{}, "Line": api.Line{}, "Error": api.Error{}, "Release": api.Release{}, "Status": api.Status{},
		"Request": api.Request{}, "Spec": plasm.Spec{}, "Grants": plasm.Grants{},
	} {
		var fields []string
		for f := range reflect.TypeOf(v).Fields() {
			tag, _, _ := strings.Cut(f.Tag.Get("json"), ",")
			fields = append(fields, tag)
			if _, ok := d.Components.Schemas[name].Properties[tag]; !ok {
				t.Errorf("%s.%s is not described", name, tag)
			}
		}
		for field := range d.Components.Schemas[name].Properties {
			if !slices.Contains(fields, field) {
				t.Errorf("%s.%s is described, and does not exist", name, field)
			}
		}
	}
	for _, path := range []string{api.Jobs, api.Jobs + "/{id}", api.Jobs + "/{id}" + api.Output, api.Jobs + "/{id}" + api.Cancel, api.Jobs + "/{id}" + api.Receipt, api.StatusPath, api.OpenAPIPath, api.MetricsPath} {
		if d.Paths[path] == nil {
			t.Errorf("%s is not described", path)
		}
	}
	if n := len(d.Paths); n != 8 {
		t.Errorf("%d paths are described", n)
	}
}
