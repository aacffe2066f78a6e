package envelope

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/secure-systems-lab/go-securesystemslib/dsse"
	"github.com/sigstore/sigstore/pkg/signature"

	"github.com/phaseboot/phaseboot/internal/refusal"
	"github.com/phaseboot/phaseboot/manifest"
)

// InToto is the payload type of an in-toto statement.
const InToto = "application/vnd.in-toto+json"

// An Envelope is a payload with one signature. Parse does not check the signature: SignedBy does.
type Envelope struct {
	Type      string // payload type, which the signature covers
	Payload   []byte
	KeyID     string // the key that is said to have signed, as manifest.KeyID has it
	Signature []byte
}

// Sign returns the envelope of a payload. public must be the key of signer. A nil signer, as that of a key whose
// public half only is known, is an error.
func Sign(ctx context.Context, payloadType string, payload []byte, signer signature.Signer, public ed25519.PublicKey) (Envelope, error) {
	if signer == nil {
		return Envelope{}, errors.New("key: only the public half is known; name the private key")
	}
	sig, err := signer.SignMessage(bytes.NewReader(dsse.PAE(payloadType, payload)))
	if err := errors.Join(err, ctx.Err()); err != nil {
		return Envelope{}, err
	}
	e := Envelope{payloadType, payload, manifest.KeyID(public), sig}
	if !e.SignedBy(public) {
		return Envelope{}, errors.New("key: the signature is not that of an Ed25519 key; name another key")
	}
	return e, nil
}

// SignedBy reports whether key has signed the payload as one of this type, and the envelope names this key.
func (e Envelope) SignedBy(key ed25519.PublicKey) bool {
	return len(key) == ed25519.PublicKeySize && e.KeyID == manifest.KeyID(key) && ed25519.Verify(key, dsse.PAE(e.Type, e.Payload), e.Signature)
}

// Bytes returns the envelope as JSON, without blanks and without a newline.
func (e Envelope) Bytes() []byte {
	data, _ := json.Marshal(dsse.Envelope{ // two strings and a list of strings: it cannot fail
		PayloadType: e.Type,
		Payload:     base64.StdEncoding.EncodeToString(e.Payload),
		Signatures:  []dsse.Signature{{KeyID: e.KeyID, Sig: base64.StdEncoding.EncodeToString(e.Signature)}},
	})
	return data
}

// Parse reads an envelope of a payload type: at most max bytes in exactly the form of Bytes, so that no other
// program reads another payload or key in it. An error wraps manifest.ErrMalformed; without any signature, and
// for another payload type, manifest.ErrSignature.
func Parse(data []byte, payloadType string, max int) (Envelope, error) {
	if len(data) > max {
		return Envelope{}, malformed("more than %d bytes", max)
	}
	if !json.Valid(data) {
		return Envelope{}, malformed("not JSON, or only a part of it")
	}
	var read dsse.Envelope
	if err := json.Unmarshal(data, &read); err != nil {
		return Envelope{}, malformed("not in the form of DSSE: %.120q", err.Error())
	}
	if read.PayloadType == "" {
		return Envelope{}, malformed("no payload type, so it is not a DSSE envelope; is this the right file?")
	}
	if read.PayloadType != payloadType {
		return Envelope{}, untrusted("payload of type %.80q, want %s", read.PayloadType, payloadType)
	}
	if len(read.Signatures) == 0 {
		return Envelope{}, untrusted("0 signatures, want 1: it is not signed")
	}
	if len(read.Signatures) > 1 {
		return Envelope{}, malformed("%d signatures, want 1", len(read.Signatures))
	}
	payload, err := decodeBase64("payload", read.Payload)
	if err != nil {
		return Envelope{}, err
	}
	sig, err := decodeBase64("signature", read.Signatures[0].Sig)
	if err != nil {
		return Envelope{}, err
	}
	e := Envelope{payloadType, payload, read.Signatures[0].KeyID, sig}
	if !bytes.Equal(e.Bytes(), data) {
		return Envelope{}, malformed("not in the one form: blanks, or other, repeated or reordered fields; use the file as it was written")
	}
	return e, nil
}

// decodeBase64 decodes standard base64 of the one form.
func decodeBase64(what, text string) ([]byte, error) {
	data, err := base64.StdEncoding.Strict().DecodeString(text)
	if err != nil || base64.StdEncoding.EncodeToString(data) != text {
		return nil, malformed("%s: not standard base64", what)
	}
	return data, nil
}

func malformed(format string, args ...any) error {
	return refusal.New(manifest.ErrMalformed, "envelope: %s", fmt.Sprintf(format, args...))
}

func untrusted(format string, args ...any) error {
	return refusal.New(manifest.ErrSignature, "envelope: %s", fmt.Sprintf(format, args...))
}
