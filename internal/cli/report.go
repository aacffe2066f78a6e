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

// Report prints an error as one line that starts with the name of the command, or, with asJSON, as
// one JSON object on one line: {"error": "…", "exit_code": N}. It prints no line for an empty text.
func Report(w io.Writer, name string, err error, asJSON bool) {
	switch {
	case err == nil:
	case asJSON:
		// without a reader of stderr, the exit code must do
		_ = json.NewEncoder(w).Encode(map[string]any{"error": Message(err), "exit_code": Code(err)})
	case err.Error() == "": // of Exitf: a job has said why it failed
	default:
		fmt.Fprintf(w, "%s: %s\n", name, Message(err))
	}
}

var (
	oneLine = strings.NewReplacer("\n", "; ", context.Canceled.Error(), "interrupted")

	// invalid matches the text of fs.ErrInvalid, which other text already explains.
	invalid = regexp.MustCompile(`(: | \(|(\?) )invalid argument\)?`)

	// notExist matches the text of fs.ErrNotExist. It is dropped if negation matches the text before it.
	notExist = regexp.MustCompile(`: (file does not exist|no such file or directory)`)
	negation = regexp.MustCompile(`\b(no|not|nothing|neither|nobody|none)\s`)

	// singular matches a count of one before a plural.
	singular = regexp.MustCompile(`(^|[^0-9.,])1 (byte|block|file|pack|release|peer|source|machine|key|package|module|signature|channel|entry)s\b`)

	// tempName matches the name of a temporary file of package atomicfile.
	tempName = regexp.MustCompile(`(^|[/ ])\.([^/ :]+)\.[0-9]{5,}\b`)
)

// Message returns an error as one line for an operator. It replaces texts of Go's library about numbers,
// durations and JSON, drops texts of Go and the kernel that repeat ours, removes temporary file
// names, and writes "1 block" for "1 blocks".
func Message(err error) string {
	s := replaceLibraryTexts(tempName.ReplaceAllString(oneLine.Replace(err.Error()), "$1$2"))
	s = singular.ReplaceAllString(s, "${1}1 $2")
	if !errors.Is(err, syscall.EINVAL) { // of the kernel: no other text names the cause
		s = invalid.ReplaceAllString(s, "$2")
	}
	return withoutAbsent(s)
}

// withoutAbsent drops "file does not exist" after texts such as "no root in it".
func withoutAbsent(s string) string {
	out, from := "", 0
	for _, at := range notExist.FindAllStringIndex(s, -1) {
		before := s[:at[0]]
		if i := strings.LastIndex(before, ": "); i >= 0 {
			before = before[i+2:]
		}
		if negation.MatchString(before) {
			out += s[from:at[0]]
			from = at[1]
		}
	}
	return out + s[from:]
}
