package signer

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"strings"

	"filippo.io/age"

	"github.com/phaseboot/phaseboot/internal/refusal"
)

// maxRecipients bounds the machines to which one secret is sealed.
const maxRecipients = 16

// Seal encrypts a secret to the age keys of machines (https://age-encryption.org/v1), which their boot reports name. A
// text that is not a recipient age1… wraps fs.ErrInvalid.
func Seal(secret []byte, recipients []string) ([]byte, error) {
	if len(recipients) == 0 || len(recipients) > maxRecipients {
		return nil, refusal.Invalid("--to: %d recipients; give 1 to %d keys age1… of machines", len(recipients), maxRecipients)
	}
	var list []age.Recipient
	for _, text := range recipients {
		r, err := age.ParseX25519Recipient(strings.TrimSpace(text))
		if err != nil {
			return nil, refusal.Invalid("--to %.80q: not an age key; take the age_recipient of the boot report of a machine whose key is accepted", text)
		}
		list = append(list, r)
	}
	var out bytes.Buffer
	w, err := age.Encrypt(&out, list...)
	if err != nil {
		return nil, err
	}
	if _, err := w.Write(secret); err != nil {
		return nil, err
	}
	err = w.Close() // writes the rest
	return out.Bytes(), err
}

func sha256Hex(data []byte) string {
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}
