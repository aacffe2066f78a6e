package manifest

import (
	"errors"
	"testing"
)

func TestKindOfSaysWhatAFileIs(t *testing.T) {
	for text, want := range map[string]string{
		`{"signed":{"_type":"root"}}`:                                      "root",
		`{"signed":{"_type":"timestamp"}}`:                                 "timestamp",
		`{"signed":{"_type":"snapshot"}}`:                                  "snapshot",
		`{"signed":{"_type":"targets"}}`:                                   "targets",
		`{"signed":{"_type":"targets","delegations":{},"x-phaseboot":{}}}`: "targets",
		`{"signed":{"_type":"targets","x-phaseboot":{}}}`:                  string(KindRole),
		`{"signed":{"_type":"package-lock"}}`:                              `JSON, but not metadata: signed._type is "package-lock"`,
		`{"name":"package"}`:                                               "JSON, but not metadata: no signed._type in it",
		`{"signed":{"_type":7}}`:                                           "JSON, but not metadata",
		`[1]`:                                                              "JSON, but not metadata",
		`null`:                                                             "JSON, but not metadata: no signed._type in it",
		`{"signed":`:                                                       "not JSON at byte 10 of 10, so cut short or damaged",
		"# Read me":                                                        "a text file, not JSON, so not metadata",
		"-----BEGIN PUBLIC KEY-----":                                       "a text file, not JSON, so not metadata",
		"\x7fELF\x00\xff":                                                  "not JSON, so not metadata",
		" \n":                                                              "the file is empty",
		"":                                                                 "the file is empty",
	} {
		kind, err := KindOf([]byte(text))
		got := string(kind)
		if err != nil {
			got = err.Error()
		}
		if got != want || err != nil && !errors.Is(err, ErrMalformed) {
			t.Errorf("%q: got %q, want %q", text, got, want)
		}
	}
}
