package receipt

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/hex"
	"fmt"

	"github.com/sigstore/sigstore/pkg/signature"

	"github.com/phaseboot/phaseboot/internal/envelope"
	"github.com/phaseboot/phaseboot/manifest"
)

// MaxEnvelope is the maximum size of a receipt, in bytes. One with few arguments has about 2600.
const MaxEnvelope = 512 << 10

// Mark begins a receipt as one line, see Signed.Line.
const Mark = "plasmd: receipt "

// A Signed is a receipt with its envelope. Parse does not check the signature: Verify does.
type Signed struct {
	Receipt
	envelope envelope.Envelope
}

// Sign returns the receipt, signed by the key of the machine. Values that have no place in a receipt wrap
// manifest.ErrMalformed.
func (r Receipt) Sign(key ed25519.PrivateKey, ephemeral bool) (Signed, error) {
	public := key.Public().(ed25519.PublicKey)
	r.Run.Machine = Machine{hex.EncodeToString(public), ephemeral}
	if err := r.check(); err != nil {
		return Signed{}, err
	}
	payload, err := envelope.Canonical(r)
	if err != nil {
		return Signed{}, malformed("%v", err)
	}
	signer, err := signature.LoadSigner(key, crypto.Hash(0))
	if err != nil {
		return Signed{}, fmt.Errorf("receipt: %w", err)
	}
	e, err := envelope.Sign(context.Background(), envelope.InToto, payload, signer, public) // in this process: it takes no time
	if err != nil {
		return Signed{}, fmt.Errorf("receipt: %w", err)
	}
	s := Signed{r, e}
	if n := len(s.Bytes()); n > MaxEnvelope {
		return Signed{}, malformed("%d bytes, the limit is %d", n, MaxEnvelope)
	}
	return s, nil
}

// Bytes returns the envelope, one line without a newline.
func (s Signed) Bytes() []byte { return s.envelope.Bytes() }

// Line returns the receipt as one line for a console: Mark, the payload that was signed, a blank, and the
// signature in base64. All of it is printable ASCII.
func (s Signed) Line() string {
	return Mark + string(s.envelope.Payload) + " " + base64.StdEncoding.EncodeToString(s.envelope.Signature)
}

// Parse reads a receipt as Bytes or Line has written it, with at most one newline at its end. Before Mark a line
// may have what a console or a journal writes before it. Parse does not check the signature. An error wraps
// manifest.ErrMalformed, or manifest.ErrSignature for an unsigned one and for another payload type.
func Parse(data []byte) (Signed, error) {
	line := bytes.TrimSuffix(data, []byte("\n"))
	e, oneLine, err := parseEnvelope(line)
	if err != nil {
		return Signed{}, err
	}
	s := Signed{envelope: e}
	if err := envelope.Decode(e.Payload, &s.Receipt); err != nil {
		return Signed{}, fmt.Errorf("receipt: %w", err)
	}
	if err := s.check(); err != nil {
		return Signed{}, err
	}
	if oneLine {
		s.envelope.KeyID = manifest.KeyID(s.key())
	}
	return s, nil
}

// parseEnvelope reads both forms. The one line has no key ID: its payload names the key.
func parseEnvelope(line []byte) (e envelope.Envelope, oneLine bool, err error) {
	before, text, ok := bytes.Cut(line, []byte(Mark))
	if !ok {
		e, err := envelope.Parse(line, envelope.InToto, MaxEnvelope)
		if err != nil {
			err = fmt.Errorf("receipt: %w", err)
		}
		return e, false, err
	}
	text = bytes.TrimSuffix(text, []byte("\r"))
	if len(line) > MaxEnvelope || bytes.ContainsAny(before, "\n") {
		return e, true, malformed("a line of more than %d bytes, or more than one; give the one line with %q", MaxEnvelope, Mark)
	}
	at := bytes.LastIndexByte(text, ' ')
	if at < 0 {
		return e, true, malformed("the line has no signature at its end; give the whole line")
	}
	sig, err := base64.StdEncoding.Strict().DecodeString(string(text[at+1:]))
	if err != nil || base64.StdEncoding.EncodeToString(sig) != string(text[at+1:]) {
		return e, true, malformed("the line does not end with a signature in base64; give the whole line")
	}
	return envelope.Envelope{Type: envelope.InToto, Payload: text[:at], Signature: sig}, true, nil
}

// key returns the key that the receipt names; check has accepted it.
func (s Signed) key() ed25519.PublicKey {
	key, _ := hex.DecodeString(s.Run.Machine.Key)
	return key
}

// Verify checks the signature with the key that the receipt names. If key is not nil, the receipt must name this
// key. A refusal wraps manifest.ErrSignature. Without key, Verify shows only that the receipt was not changed, not
// which machine signed it.
func (s Signed) Verify(key ed25519.PublicKey) error {
	named := s.key()
	if key != nil && !named.Equal(key) {
		return untrusted(manifest.ErrSignature, "signed by machine %s, not by %x", s.Run.Machine.Key, []byte(key))
	}
	if !s.envelope.SignedBy(named) {
		return untrusted(manifest.ErrSignature, "it was altered after machine %.16s… signed it, or another key has signed it", s.Run.Machine.Key)
	}
	return nil
}
