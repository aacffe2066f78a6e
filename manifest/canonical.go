package manifest

import "strconv"

// appendCanonical appends the canonical JSON of a tree, the bytes that signatures cover: no
// spaces, keys in the order of their bytes, only quotes and backslashes escaped (OLPC canonical
// JSON, as TUF requires). FuzzLint compares it with go-tuf's.
func appendCanonical(b []byte, v any) []byte {
	switch v := v.(type) {
	case object:
		b = append(b, '{')
		for i, key := range sorted(v) {
			if i > 0 {
				b = append(b, ',')
			}
			b = append(appendText(b, key), ':')
			b = appendCanonical(b, v[key])
		}
		return append(b, '}')
	case []any:
		b = append(b, '[')
		for i, item := range v {
			if i > 0 {
				b = append(b, ',')
			}
			b = appendCanonical(b, item)
		}
		return append(b, ']')
	case string:
		return appendText(b, v)
	case int64:
		return strconv.AppendInt(b, v, 10)
	case bool:
		return strconv.AppendBool(b, v)
	}
	panic("manifest: a tree has objects, lists, text, integers and booleans only") // parseTree makes these types only
}

func appendText(b []byte, s string) []byte {
	b = append(b, '"')
	for i := range len(s) {
		if s[i] == '"' || s[i] == '\\' {
			b = append(b, '\\')
		}
		b = append(b, s[i])
	}
	return append(b, '"')
}
