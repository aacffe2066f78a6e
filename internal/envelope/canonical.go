package envelope

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"unicode/utf16"
)

// maxInteger is the largest integer that every JSON library reads exactly.
const maxInteger = 1 << 53

// Canonical returns the JSON of v in its one form: sorted keys, no blanks, integers only, and in strings only
// printable ASCII; all else is escaped, as \n or \u00e9. So the text is safe on a console. Python's
// json.dumps(v, sort_keys=True, separators=(",", ":")) returns the same bytes. v must have valid UTF-8: Go's
// encoder replaces all else.
func Canonical(v any) ([]byte, error) {
	data, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	d := json.NewDecoder(bytes.NewReader(data))
	d.UseNumber()
	var tree any
	if err := d.Decode(&tree); err != nil {
		return nil, err
	}
	return appendValue(nil, tree)
}

// Decode reads canonical JSON into v, a pointer to a type without free maps of any. It refuses all that
// Canonical does not write for the value: unknown, repeated or null fields, other spellings of a key, other
// escapes, blanks, fractions. The error wraps manifest.ErrMalformed.
func Decode(data []byte, v any) error {
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		return malformed("payload: %.160q", err.Error())
	}
	again, err := Canonical(v)
	if err != nil {
		return malformed("payload: %.160q", err.Error())
	}
	if !bytes.Equal(again, data) {
		return malformed("payload: not in its canonical form; write it with sorted keys, without blanks, and in plain ASCII")
	}
	return nil
}

func appendValue(b []byte, v any) ([]byte, error) {
	switch v := v.(type) {
	case map[string]any:
		return appendObject(b, v)
	case []any:
		return appendList(b, v)
	case string:
		return appendString(b, v), nil
	case json.Number:
		n, err := strconv.ParseInt(v.String(), 10, 64)
		if err != nil || n < -maxInteger || n > maxInteger {
			return nil, fmt.Errorf("number %.40s: not an integer between -2^53 and 2^53", v)
		}
		return strconv.AppendInt(b, n, 10), nil
	case bool:
		return strconv.AppendBool(b, v), nil
	}
	return append(b, "null"...), nil
}

func appendObject(b []byte, object map[string]any) (_ []byte, err error) {
	b = append(b, '{')
	for i, key := range slices.Sorted(maps.Keys(object)) {
		if i > 0 {
			b = append(b, ',')
		}
		if b, err = appendValue(append(appendString(b, key), ':'), object[key]); err != nil {
			return nil, err
		}
	}
	return append(b, '}'), nil
}

func appendList(b []byte, list []any) (_ []byte, err error) {
	b = append(b, '[')
	for i, item := range list {
		if i > 0 {
			b = append(b, ',')
		}
		if b, err = appendValue(b, item); err != nil {
			return nil, err
		}
	}
	return append(b, ']'), nil
}

// short are the escapes of JSON with one letter (RFC 8259, section 7).
var short = map[rune]string{'"': `\"`, '\\': `\\`, '\b': `\b`, '\f': `\f`, '\n': `\n`, '\r': `\r`, '\t': `\t`}

func appendString(b []byte, s string) []byte {
	b = append(b, '"')
	for _, r := range s {
		switch escape, ok := short[r]; {
		case ok:
			b = append(b, escape...)
		case r >= ' ' && r <= '~':
			b = append(b, byte(r))
		case r > 0xffff:
			high, low := utf16.EncodeRune(r)
			b = fmt.Appendf(b, `\u%04x\u%04x`, high, low)
		default:
			b = fmt.Appendf(b, `\u%04x`, r)
		}
	}
	return append(b, '"')
}
