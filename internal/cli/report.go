package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strings"
	"syscall"
)

// Report prints an error as one line that starts with the command's name, or, with
// asJSON, as one JSON object on one line: {"error": words, "exit_code": N}.
func Report(w io.Writer, name string, err error, asJSON bool) {
	switch {
	case err == nil:
	case asJSON:
		_ = json.NewEncoder(w).Encode(struct { // who reads stderr is gone, and the exit code says the rest
			Error    string `json:"error"`
			ExitCode int    `json:"exit_code"`
		}{Words(err), Code(err)})
	default:
		fmt.Fprintf(w, "%s: %s\n", name, Words(err))
	}
}

var (
	oneLine = strings.NewReplacer("\n", "; ", context.Canceled.Error(), "interrupted")

	// invalid is what fs.ErrInvalid says beside the words that say it better.
	invalid = regexp.MustCompile(`(: | \(|(\?) )invalid argument\)?`)

	// absent is what fs.ErrNotExist says; it goes where the words before it say no.
	absent = regexp.MustCompile(`: (file does not exist|no such file or directory)`)
	denial = regexp.MustCompile(`\b(no|not|nothing|neither|nobody|none)\s`)

	// one is a count of one before a plural.
	one = regexp.MustCompile(`(^|[^0-9.,])1 (byte|block|file|pack|release|peer|source|machine|key|package|module|signature|channel|entry)s\b`)

	// temporary is the hidden name under which a file is written before it is whole.
	temporary = regexp.MustCompile(`(^|[/ ])\.([^/ :]+)\.[0-9]{5,}\b`)
)

// Words is an error as one line for people: without what Go's library says of numbers, durations
// and JSON, without the names that Go and the kernel have for it where words stand already, without temporary names, and in the singular.
func Words(err error) string {
	s := plain(temporary.ReplaceAllString(oneLine.Replace(err.Error()), "$1$2"))
	s = one.ReplaceAllString(s, "${1}1 $2")
	if !errors.Is(err, syscall.EINVAL) { // of the kernel, nothing else says what is wrong
		s = invalid.ReplaceAllString(s, "$2")
	}
	return withoutAbsent(s)
}

// withoutAbsent drops "file does not exist" behind words like "no root in it".
func withoutAbsent(s string) string {
	out, from := "", 0
	for _, at := range absent.FindAllStringIndex(s, -1) {
		said := s[:at[0]]
		if i := strings.LastIndex(said, ": "); i >= 0 {
			said = said[i+2:]
		}
		if denial.MatchString(said) {
			out += s[from:at[0]]
			from = at[1]
		}
	}
	return out + s[from:]
}
