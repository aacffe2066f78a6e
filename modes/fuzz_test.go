package modes

import (
	"encoding/json"
	"reflect"
	"testing"
)

// FuzzParse checks that an accepted mode is unchanged after encoding and parsing it again.
func FuzzParse(f *testing.F) {
	for _, name := range Names() {
		data, err := shipped.ReadFile(name + ".json")
		if err != nil {
			f.Fatal(err)
		}
		f.Add(name, data)
	}
	f.Add("x", []byte(`{"name":"x","NAME":"y","discovery":null}`))
	f.Fuzz(func(t *testing.T, name string, data []byte) {
		m, err := parse(name, data)
		if err != nil {
			return
		}
		out, err := json.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		again, err := parse(name, out)
		if err != nil || !reflect.DeepEqual(m, again) {
			t.Errorf("%+v was parsed again as %+v, %v", m, again, err)
		}
		if m.Cache == "" || m.Stale == "" || m.Name != name {
			t.Errorf("accepted without a policy: %+v", m)
		}
	})
}
