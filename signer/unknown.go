package signer

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/phaseboot/phaseboot/manifest"
)

// A schema lists the fields of a JSON object that Show describes. "*" is any name. The fields below
// a nil schema are not checked.
type schema map[string]schema

var (
	fileSchema = schema{"version": nil, "length": nil, "hashes": {"sha256": nil, "sha512": nil}}
	keySchema  = schema{"*": {"keytype": nil, "scheme": nil, "keyval": {"public": nil}}}
	extensions = map[manifest.Kind]schema{
		manifest.KindRoot: {
			"repository": nil, "discovery": {"ipns": nil, "https": nil}, "dht": {"prefix": nil, "bootstrap": nil},
		},
		manifest.KindTargets:   {"repository": nil},
		manifest.KindSnapshot:  {"repository": nil},
		manifest.KindTimestamp: {"repository": nil, "signed_at": nil},
		manifest.KindRole: {
			"repository": nil, "channel": nil, "arch": nil, "release": nil, "cmdline": nil, "min_ram": nil, "signed_at": nil, "job": nil, "critical": nil,
		},
	}
	bodies = map[manifest.Kind]schema{
		manifest.KindRoot:      {"consistent_snapshot": nil, "keys": keySchema, "roles": {"*": {"keyids": nil, "threshold": nil}}},
		manifest.KindSnapshot:  {"meta": {"*": fileSchema}},
		manifest.KindTimestamp: {"meta": {"*": fileSchema}},
		manifest.KindTargets: {"targets": nil, "delegations": {
			"keys": keySchema, "roles": {"name": nil, "keyids": nil, "threshold": nil, "terminating": nil, "paths": nil},
		}},
		manifest.KindRole: {"targets": {"*": {
			"length": nil, "hashes": {"sha256": nil, "sha512": nil}, "custom": {"cid": nil, "chunker": nil, "role": nil},
		}}},
	}
)

// schemaOf returns the fields of a kind of file that Show describes.
func schemaOf(kind manifest.Kind) schema {
	s := schema{"_type": nil, "spec_version": nil, "version": nil, "expires": nil, "x-phaseboot": extensions[kind]}
	maps.Copy(s, bodies[kind])
	return s
}

// unknownFields lists the signed fields of a file that Show does not describe, each with its path
// and its value as JSON. A signature covers them too.
func unknownFields(kind manifest.Kind, data []byte) []string {
	var file struct {
		Signed any `json:"signed"`
	}
	r := json.NewDecoder(bytes.NewReader(data))
	r.UseNumber()
	if err := r.Decode(&file); err != nil {
		return []string{"signed: " + err.Error()}
	}
	return schemaOf(kind).unknown("", file.Signed)
}

// unknown lists the fields of v that are not in the schema.
func (s schema) unknown(path string, v any) (list []string) {
	switch v := v.(type) {
	case []any:
		for i, e := range v {
			list = append(list, s.unknown(fmt.Sprintf("%s[%d]", path, i), e)...)
		}
	case map[string]any:
		for _, name := range slices.Sorted(maps.Keys(v)) {
			at := strings.TrimPrefix(path+"."+name, ".")
			next, known := s[name]
			if any, ok := s["*"]; ok && !known {
				next, known = any, true
			}
			if !known {
				data, _ := json.Marshal(v[name]) // v came from JSON
				list = append(list, at+" = "+string(data))
			} else if next != nil {
				list = append(list, next.unknown(at, v[name])...)
			}
		}
	}
	return list
}
