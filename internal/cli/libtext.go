package cli

import (
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"
)

const quoted = `("(?:[^"\\]|\\.)*")`

// libraryTexts replace texts of Go's library about a value by texts for an operator.
var libraryTexts = []struct {
	library *regexp.Regexp
	ours    string
}{
	{regexp.MustCompile(`strconv\.ParseBool: parsing ` + quoted + `: invalid syntax`), `$1 is not true or false`},
	{regexp.MustCompile(`strconv\.\w+: parsing ` + quoted + `: invalid syntax`), `$1 is not a number`},
	{regexp.MustCompile(`strconv\.\w+: parsing ` + quoted + `: value out of range`), `$1 is too large or too small a number`},
	{regexp.MustCompile(`time: (?:(?:missing unit in|invalid) duration|unknown unit "[^"]*" in duration) ` + quoted), `$1 is not a duration; write it with a unit, such as 5s or 12h`},
	{regexp.MustCompile(`parsing time ` + quoted + `(?: as "[^"]*": cannot parse "[^"]*" as "[^"]*"|: \w+ out of range|: extra text: .*)`), `$1 is not a date; write it as 2026-11-01T12:00:00Z`},
	{regexp.MustCompile(`invalid character '(?:\\.|[^'])*' (?:looking for beginning of (?:value|object key string)|after (?:top-level value|object key:value pair|object key|array element)|in (?:string literal|string escape code|\\u hexadecimal character escape|numeric literal|literal \w+ \(expecting '.'\)))`), `not JSON`},
	{regexp.MustCompile(`unexpected end of JSON input`), `cut short`},
	{regexp.MustCompile(`json: cannot unmarshal (\w+) into Go (?:value|struct field \S+) of type (?:struct \{.*\}|[^\s;:)]+)`), `JSON with $1 where something else belongs`},
	{regexp.MustCompile(`json: unknown field ` + quoted), `unknown field $1`},
	{regexp.MustCompile(`encoding/hex: (?:invalid byte: U\+[0-9A-F]+ '(?:\\.|[^'])*'|odd length hex string)`), `not hexadecimal`},
	{regexp.MustCompile(`illegal base64 data at input byte \d+`), `not base64`},

	{regexp.MustCompile(`(not JSON[^:;(]*?)(?:: not JSON| \(not JSON\))`), `$1`}, // the text would be there twice
	{regexp.MustCompile(`not JSON \(JSON with (.*? belongs)\)`), `JSON with $1`},
}

func replaceLibraryTexts(s string) string {
	for _, w := range libraryTexts {
		s = w.library.ReplaceAllString(s, w.ours)
	}
	return s
}

// valueText returns the text for a value that the flag name of a kind (int, bool, duration …) does not
// accept. For other kinds it is the error of the flag itself.
func valueText(name, value, kind string, cause error) string {
	shown := fmt.Sprintf("--%s %.80s", name, value)
	if q := strconv.Quote(value); q != `"`+value+`"` || strings.TrimSpace(value) != value || value == "" {
		shown = fmt.Sprintf("--%s %.80s", name, q)
	}
	number := strings.HasPrefix(kind, "int") || strings.HasPrefix(kind, "uint")
	switch {
	case number && errors.Is(cause, strconv.ErrRange):
		return shown + ": too large or too small a number"
	case number:
		return shown + ": not a whole number"
	case kind == "bool":
		return fmt.Sprintf("%s: not true or false; write --%s alone, or --%s=false", shown, name, name)
	case kind == "duration" && !errors.Is(cause, ErrUsage):
		return shown + ": not a duration; write it with a unit, such as 5s or 12h"
	}
	return shown + ": " + Message(cause)
}

// Errors of cobra about groups of flags.
var (
	noneOfGroup = regexp.MustCompile(`^at least one of the flags in the group \[(.*)\] is required$`)
	twoOfGroup  = regexp.MustCompile(`^if any flags in the group \[.*\] are set none of the others can be; \[(.*)\] were all set$`)
	partOfGroup = regexp.MustCompile(`^if any flags in the group \[(.*)\] are set they must all be set; missing \[(.*)\]$`)
)

// groupText returns our text for an error of cobra about flags that belong together or exclude each
// other, and any other line unchanged.
func groupText(line string) string {
	flags := func(names, between string) string { return "--" + strings.Join(strings.Fields(names), between+"--") }
	if m := noneOfGroup.FindStringSubmatch(line); m != nil {
		return "a flag is missing; give " + flags(m[1], " or ")
	}
	if m := twoOfGroup.FindStringSubmatch(line); m != nil {
		return flags(m[1], " and ") + " exclude each other; give only one"
	}
	if m := partOfGroup.FindStringSubmatch(line); m != nil {
		return flags(m[1], " and ") + " belong together; give " + flags(m[2], " and ") + " too"
	}
	return line
}
