package manifest

import (
	"encoding/hex"
	"fmt"
	"regexp"
	"strings"
)

// A selector names the machines that a settings document is for: "default" is every machine, group-NAME the machines
// of a group, and mac-525400123456, uuid-… and serial-… one machine. It is a part of a target path, so two spellings
// of one machine have one form.
const (
	SelectorDefault = "default"

	selectorGroup  = "group-"
	selectorMAC    = "mac-"
	selectorUUID   = "uuid-"
	selectorSerial = "serial-"

	maxSerial = 64 // bytes of a serial number
)

var (
	macGrammar    = regexp.MustCompile(`^[0-9a-f]{12}$`)
	uuidGrammar   = regexp.MustCompile(`^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$`)
	serialGrammar = regexp.MustCompile(`^([a-z0-9.-]|_[0-9a-f]{2}){1,64}$`)
)

// ParseSelector returns the form of a selector that targets have: MAC addresses without colons, hex digits and serial
// numbers in lower case, and each other byte of a serial number as _ and two hex digits. A serial number may be given
// as it is, or in that form, which has no capital. Text with capitals that is two machines is refused: serial-AB_2F is
// the serial number AB_2F, or the form of AB/. The error wraps ErrMalformed.
func ParseSelector(text string) (string, error) {
	kind, value, _ := strings.Cut(text, "-")
	kind += "-"
	canonical := text
	switch kind {
	case selectorMAC:
		canonical = MACSelector(value)
	case selectorUUID:
		canonical = UUIDSelector(value)
	case selectorSerial:
		if form := strings.ToLower(text); checkSelector(form) == nil {
			if err := checkOneSerial(value, form); err != nil {
				return "", err
			}
			return form, nil
		}
		canonical = SerialSelector(value)
	}
	if canonical == "" || checkSelector(canonical) != nil {
		return "", checkSelector(text)
	}
	return canonical, nil
}

// checkOneSerial refuses a serial number that is, in lower case, the form of another one too.
func checkOneSerial(value, form string) error {
	asIs := SerialSelector(value)
	if asIs == form || selectorSerial+value == form {
		return nil
	}
	other := unescapeSerial(form[len(selectorSerial):])
	return malformed("selector %.80q: is two serial numbers; write %s for %.80q, or %s for %.80q", selectorSerial+value, asIs, value, form, strings.ToUpper(other))
}

// checkSelector refuses text that is not the form of a selector that targets have.
func checkSelector(s string) error {
	switch {
	case s == SelectorDefault:
		return nil
	case strings.HasPrefix(s, selectorGroup) && groupGrammar.MatchString(s[len(selectorGroup):]):
		return nil
	case strings.HasPrefix(s, selectorMAC) && MACSelector(s[len(selectorMAC):]) == s:
		return nil
	case strings.HasPrefix(s, selectorUUID) && uuidGrammar.MatchString(s[len(selectorUUID):]):
		return nil
	case strings.HasPrefix(s, selectorSerial):
		if value := s[len(selectorSerial):]; serialGrammar.MatchString(value) && escapeSerial(unescapeSerial(value)) == value {
			return nil
		}
	}
	return malformed("selector %.80q: use mac-525400123456, uuid-UUID, serial-TEXT, group-NAME or default", s)
}

// GroupSelector is the selector of a group.
func GroupSelector(group string) string { return selectorGroup + group }

// IsMachine reports whether a selector names one machine.
func IsMachine(selector string) bool {
	return selector != SelectorDefault && !strings.HasPrefix(selector, selectorGroup)
}

// MACSelector is the selector of a machine by the MAC address of one of its cards, "" for text that is not one.
func MACSelector(mac string) string {
	digits := strings.ToLower(strings.NewReplacer(":", "", "-", "").Replace(mac))
	if !macGrammar.MatchString(digits) || strings.Trim(digits, "0") == "" || strings.Trim(digits, "f") == "" {
		return ""
	}
	return selectorMAC + digits
}

// UUIDSelector is the selector of a machine by its DMI product UUID, "" for text that is not one.
func UUIDSelector(uuid string) string {
	uuid = strings.ToLower(uuid)
	if !uuidGrammar.MatchString(uuid) {
		return ""
	}
	return selectorUUID + uuid
}

// SerialSelector is the selector of a machine by its DMI product serial number, "" for an empty one or one of more
// than 64 bytes.
func SerialSelector(serial string) string {
	serial = strings.TrimSpace(serial)
	if serial == "" || len(serial) > maxSerial {
		return ""
	}
	return selectorSerial + escapeSerial(serial)
}

// escapeSerial writes a serial number in lower case, each byte outside a-z, 0-9, "." and "-" as _ and two hex digits.
func escapeSerial(serial string) string {
	var b strings.Builder
	for _, c := range []byte(strings.ToLower(serial)) {
		if c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '.' || c == '-' {
			b.WriteByte(c)
		} else {
			fmt.Fprintf(&b, "_%02x", c)
		}
	}
	return b.String()
}

// unescapeSerial is the inverse of escapeSerial for text of its grammar.
func unescapeSerial(text string) string {
	var b []byte
	for i := 0; i < len(text); i++ {
		if text[i] != '_' {
			b = append(b, text[i])
			continue
		}
		raw, _ := hex.DecodeString(text[i+1 : i+3]) // the grammar has two hex digits
		b, i = append(b, raw...), i+2
	}
	return string(b)
}
