package manifest

import (
	"encoding/json"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// quotedKey is a key in a path of join.
var quotedKey = regexp.MustCompile(`\["(.*?)"\]`)

// get returns a required field.
func (l *linter) get(path string, obj object, name string) any {
	v, ok := obj[name]
	if !ok {
		l.fail(join(path, name), "is missing")
	}
	return v
}

// known refuses keys that encoding/json reads as one of the known fields although they are written
// differently. Other unknown fields are allowed, as in TUF; l.unknown lists those that are signed.
func (l *linter) known(path string, obj object, names ...string) {
	for key, v := range obj {
		if slices.Contains(names, key) {
			continue
		}
		folded := foldKey(key)
		for _, name := range names {
			if foldKey(name) == folded {
				l.fail(join(path, key), "must be written %q", name)
			}
		}
		if field, ok := strings.CutPrefix(quotedKey.ReplaceAllString(path, ".$1")+"."+key, "signed."); ok {
			data, _ := json.Marshal(v) // v came from JSON
			l.unknown = append(l.unknown, field+" = "+string(data))
		}
	}
}

func (l *linter) object(path string, v any) object { return typed[object](l, path, v, "an object") }

func (l *linter) list(path string, v any) []any { return typed[[]any](l, path, v, "a list") }

func (l *linter) text(path string, v any) string { return typed[string](l, path, v, "text") }

// typed returns v as a T. what names the type.
func typed[T any](l *linter, path string, v any, what string) T {
	t, ok := v.(T)
	if !ok {
		l.fail(path, "is not %s", what)
	}
	return t
}

func (l *linter) match(path string, v any, grammar *regexp.Regexp, want string) string {
	s := l.text(path, v)
	if !grammar.MatchString(s) {
		l.fail(path, "%.80q is not %s", s, want)
	}
	return s
}

func (l *linter) integer(path string, v any, least, most int64) int64 {
	n := typed[int64](l, path, v, "an integer")
	if n < least || n > most {
		l.fail(path, "%d is not within %d and %d", n, least, most)
	}
	return n
}

func index(path string, i int) string {
	return path + "[" + strconv.Itoa(i) + "]"
}
