package bootargs

import "regexp"

var (
	credentials = regexp.MustCompile(`(://)[^/?#\s"]*@`) // of a URL as it should be
	anyUser     = regexp.MustCompile(`(?s)(://).*@`)     // of what is none
)

// Redact takes the user and the password out of every URL in a text, which may be a command
// line or an error. Give it a text that was not cut short.
func Redact(text string) string { return credentials.ReplaceAllString(text, "${1}…@") }

// redactAll is Redact for one word that is no proper URL, such as a password with a slash in it.
func redactAll(text string) string { return anyUser.ReplaceAllString(text, "${1}…@") }
