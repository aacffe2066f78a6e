package manifest

import (
	"bytes"
	"encoding/json"
	"errors"
	"regexp"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// maxNesting is the greatest depth of objects and arrays in metadata.
const maxNesting = 32

// maxInteger is the largest integer, and the largest version, in metadata: go-tuf stores
// unrecognised numbers as float64.
const maxInteger = 1 << 53

var (
	integerGrammar = regexp.MustCompile(`^(0|-?[1-9][0-9]{0,15})$`)
	plainKey       = regexp.MustCompile(`^[A-Za-z0-9_-]+$`)
)

// object is a JSON object of a tree. A tree consists of object, []any, string, int64 and bool.
type object = map[string]any

// parseTree reads one JSON value and refuses what JSON readers read differently: null, fractions,
// integers beyond 2^53, and two keys that are equal or differ only in case.
func parseTree(data []byte) (any, error) {
	if len(bytes.TrimSpace(data)) == 0 {
		return nil, malformed("the file is empty")
	}
	if !utf8.Valid(data) {
		return nil, malformed("not UTF-8")
	}
	if err := json.Unmarshal(data, new(json.RawMessage)); err != nil {
		var syntax *json.SyntaxError
		if errors.As(err, &syntax) {
			return nil, malformed("not JSON at byte %d of %d: %v", syntax.Offset, len(data), err)
		}
		return nil, malformed("not JSON: %v", err)
	}
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.UseNumber()
	return treeValue(dec, "", 0)
}

func treeValue(dec *json.Decoder, path string, depth int) (any, error) {
	tok, err := dec.Token()
	if err != nil {
		return nil, malformed("%s: not JSON: %v", at(path), err)
	}
	switch tok := tok.(type) {
	case json.Delim:
		if depth == maxNesting {
			return nil, malformed("%s: nested deeper than %d", at(path), maxNesting)
		}
		if tok == '{' {
			return treeObject(dec, path, depth+1)
		}
		return treeArray(dec, path, depth+1)
	case json.Number:
		return treeInteger(path, tok.String())
	case string:
		return tok, checkText(path, tok)
	case bool:
		return tok, nil
	default:
		return nil, malformed("%s: null is not allowed", at(path))
	}
}

func treeObject(dec *json.Decoder, path string, depth int) (any, error) {
	obj, folded := object{}, map[string]string{}
	for dec.More() {
		tok, err := dec.Token()
		if err != nil {
			return nil, malformed("%s: not JSON: %v", at(path), err)
		}
		key, _ := tok.(string)
		if err := checkText(path, key); err != nil {
			return nil, err
		}
		if old, twice := folded[foldKey(key)]; twice {
			return nil, malformed("%s: the keys %.60q and %.60q are the same or differ only in case", at(path), old, key)
		}
		folded[foldKey(key)] = key
		if obj[key], err = treeValue(dec, join(path, key), depth); err != nil {
			return nil, err
		}
	}
	_, err := dec.Token() // the closing brace
	return obj, err
}

func treeArray(dec *json.Decoder, path string, depth int) (any, error) {
	list := []any{}
	for dec.More() {
		v, err := treeValue(dec, path+"["+strconv.Itoa(len(list))+"]", depth)
		if err != nil {
			return nil, err
		}
		list = append(list, v)
	}
	_, err := dec.Token() // the closing bracket
	return list, err
}

func treeInteger(path, text string) (any, error) {
	if !integerGrammar.MatchString(text) {
		return nil, malformed("%s: the number %.40q is not a plain integer of at most 2^53", at(path), text)
	}
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil || n > maxInteger || n < -maxInteger {
		return nil, malformed("%s: the number %.40q is beyond 2^53", at(path), text)
	}
	return n, nil
}

// checkText refuses the replacement character. Go also reads it in place of half a surrogate
// pair, where other readers may read other text.
func checkText(path, s string) error {
	if strings.ContainsRune(s, utf8.RuneError) {
		return malformed("%s: text that is not Unicode", at(path))
	}
	return nil
}

// foldKey returns one text for all keys that encoding/json reads as the same field.
func foldKey(key string) string {
	return strings.Map(func(r rune) rune {
		least := r
		for f := unicode.SimpleFold(r); f != r; f = unicode.SimpleFold(f) {
			least = min(least, f)
		}
		return least
	}, key)
}

// join extends the JSON path in an error. Text from the file is quoted and shortened.
func join(path, key string) string {
	switch {
	case len(key) > 60 || !plainKey.MatchString(key):
		if len(key) > 60 {
			key = key[:60]
		}
		return path + "[" + strconv.QuoteToASCII(key) + "]"
	case path == "":
		return key
	default:
		return path + "." + key
	}
}

// at returns the JSON path for an error, shortened; the top level has none.
func at(path string) string {
	const most = 300
	switch {
	case path == "":
		return "top level"
	case len(path) > most:
		return path[:most] + "…"
	default:
		return path
	}
}
