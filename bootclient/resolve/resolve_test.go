package resolve

import "testing"

func TestTheDHTIsNotCountedAsASource(t *testing.T) {
	for want, r := range map[string]Result{
		"2 of 2 sources and the DHT": {announcers: 2, sources: 2, dht: true},
		"1 of 1 source":              {announcers: 1, sources: 1},
		"the DHT":                    {sources: 1, dht: true},
	} {
		if got := r.Summary(); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}
