package bootargs

import "regexp"

var (
	credentials = regexp.MustCompile(`(://)[^/?#\s"]*@`) // of a valid URL
	anyUser     = regexp.MustCompile(`(?s)(://).*@`)     // of any text
)

// Redact removes the user and the password from every URL in a text, such as a command line or an
// error. The text must not be truncated.
func Redact(text string) string { return credentials.ReplaceAllString(text, "${1}…@") }

// redactAll removes everything between :// and the last @ of a word, which may be an invalid URL, such
// as one with a slash in its password.
func redactAll(text string) string { return anyUser.ReplaceAllString(text, "${1}…@") }
