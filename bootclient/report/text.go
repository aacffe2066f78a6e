package report

import (
	"fmt"
	"strings"

	"github.com/dustin/go-humanize"
	"github.com/dustin/go-humanize/english"

	"github.com/phaseboot/phaseboot/internal/bootargs"
	"github.com/phaseboot/phaseboot/internal/refusal"
)

// Printable makes a text from outside safe for one line of a console.
func Printable(s string) string { return refusal.Printable(s) }

// Clean is Printable, limited in length and without passwords of URLs.
func Clean(s string) string {
	s = Printable(bootargs.Redact(s))
	if len(s) > maxWords {
		s = strings.ToValidUTF8(s[:maxWords], "") + "…"
	}
	return s
}

// Count returns a number and a noun.
func Count(n int, thing string) string {
	return fmt.Sprintf("%d %s", n, english.PluralWord(n, thing, ""))
}

// Bytes formats a number of bytes, such as 57 MiB.
func Bytes(n int64) string { return humanize.IBytes(uint64(max(n, 0))) }
