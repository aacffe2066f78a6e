package manifest

import (
	"bytes"
	"encoding/json"
	"errors"
	"unicode/utf8"

	"github.com/theupdateframework/go-tuf/v2/metadata"
)

// KindOf returns the kind of metadata that a file names in itself. It checks nothing else: Lint of
// that kind does. The error wraps ErrMalformed and says what the file is, for an operator who named
// a wrong file.
func KindOf(data []byte) (Kind, error) {
	var file struct {
		Signed struct {
			Type        string          `json:"_type"`
			Delegations json.RawMessage `json:"delegations"`
			Extension   json.RawMessage `json:"x-phaseboot"`
		} `json:"signed"`
	}
	if err := json.Unmarshal(data, &file); err != nil {
		return "", notMetadata(data, err)
	}
	switch kind := file.Signed.Type; kind {
	case metadata.ROOT, metadata.TIMESTAMP, metadata.SNAPSHOT:
		return Kind(kind), nil
	case metadata.TARGETS:
		switch x := file.Signed.Extension; {
		case x == nil || file.Signed.Delegations != nil: // the other two must not delegate
			return KindTargets, nil
		case isConfig(x):
			return KindConfig, nil
		}
		return KindRole, nil
	case "":
		return "", malformed("JSON, but not metadata: no signed._type in it")
	default:
		return "", malformed("JSON, but not metadata: signed._type is %.40q", kind)
	}
}

// notMetadata says what a file is that encoding/json could not read as metadata.
func notMetadata(data []byte, err error) error {
	var syntax *json.SyntaxError
	switch text := bytes.TrimSpace(data); {
	case len(text) == 0:
		return malformed("the file is empty")
	case !errors.As(err, &syntax):
		return malformed("JSON, but not metadata")
	case text[0] == '{':
		return malformed("not JSON at byte %d of %d, so cut short or damaged", syntax.Offset, len(data))
	case utf8.Valid(data) && !bytes.ContainsRune(data, 0):
		return malformed("a text file, not JSON, so not metadata")
	}
	return malformed("not JSON, so not metadata")
}

// isConfig reports whether the field x-phaseboot is that of the role config.
func isConfig(extension json.RawMessage) bool {
	var fields map[string]json.RawMessage
	return json.Unmarshal(extension, &fields) == nil && fields[configField] != nil
}
