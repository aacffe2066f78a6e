package order

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/sigstore/sigstore/pkg/signature"

	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/internal/envelope"
	"github.com/phaseboot/phaseboot/internal/refusal"
	"github.com/phaseboot/phaseboot/plasm"
)

const (
	// PayloadType is the DSSE payload type of an order. The signature covers it.
	PayloadType = "application/vnd.phaseboot.job+json"

	// Format is the value of the field format.
	Format = "phaseboot/job/v1"

	// MaxEnvelope is the maximum size of an envelope, in bytes.
	MaxEnvelope = 64 << 10

	// MaxAhead is how far ahead an order may expire. The caller of Open must remember IDs for this long.
	MaxAhead = 24 * time.Hour

	// earlier is how long before it was made an order begins to be valid: clocks differ.
	earlier = 5 * time.Minute

	maxName = 200 // bytes
)

// An Order asks machines to run a job. It names the module by its role in the release, or by its CID, its
// SHA-256 or both. Without Machine and Group it is for every machine that knows the submitter.
type Order struct {
	ID string `json:"-"` // SHA-256 of the payload, 64 hex digits; set by Parse and Open

	Format       string     `json:"format"`
	Name         string     `json:"name"`                    // of the job, its first argument
	Role         string     `json:"role,omitempty"`          // of the module in the release, as job/NAME.wasm
	ModuleCID    string     `json:"module_cid,omitempty"`    // instead of Role
	ModuleSHA256 string     `json:"module_sha256,omitempty"` // instead of Role
	Spec         plasm.Spec `json:"spec"`
	InputSHA256  string     `json:"input_sha256,omitempty"` // of stdin; empty for none
	NotBefore    time.Time  `json:"not_before"`             // UTC, whole seconds
	Expires      time.Time  `json:"expires"`                // UTC, whole seconds
	Nonce        string     `json:"nonce"`                  // 32 hex digits: makes the ID unique, and no one can guess it
	Machine      string     `json:"machine,omitempty"`      // 64 hex digits: key of the machine
	Group        string     `json:"group,omitempty"`        // of machines
}

// New returns an order with a new nonce that expires after lifetime. The caller adds the module, the input and
// the machine or group.
func New(name string, spec plasm.Spec, now time.Time, lifetime time.Duration) Order {
	var nonce [16]byte
	_, _ = rand.Read(nonce[:]) // never returns an error
	now = now.UTC().Truncate(time.Second)
	return Order{
		Format: Format, Name: name, Spec: spec, Nonce: hex.EncodeToString(nonce[:]),
		NotBefore: now.Add(-earlier), Expires: now.Add(lifetime.Truncate(time.Second)),
	}
}

// Sign returns the envelope of an order, one line without a newline. An order that no machine would read wraps
// fs.ErrInvalid.
func Sign(ctx context.Context, signer signature.Signer, o Order) ([]byte, error) {
	if err := o.check(); err != nil {
		return nil, refusal.Invalid("order: %v", err)
	}
	payload, err := envelope.Canonical(o)
	if err != nil {
		return nil, refusal.Invalid("order: %v", err)
	}
	if signer == nil {
		return nil, refusal.Invalid("order: the key is only a public one; name the private key of a submitter")
	}
	public, err := signer.PublicKey()
	if err != nil {
		return nil, fmt.Errorf("order: key: %w", err)
	}
	key, ok := public.(ed25519.PublicKey)
	if !ok {
		return nil, refusal.Invalid("order: the key is a %T; name an Ed25519 key", public)
	}
	e, err := envelope.Sign(ctx, PayloadType, payload, signer, key)
	if err != nil {
		return nil, fmt.Errorf("order: %w", err)
	}
	data := e.Bytes()
	if len(data) > MaxEnvelope {
		return nil, refusal.Invalid("order: %d bytes, the limit is %d; give fewer arguments, and the rest on stdin", len(data), MaxEnvelope)
	}
	return data, nil
}

// Parse reads an order without a judgment of its signature: what a person or a client wants to know about its own
// order. An error wraps manifest.ErrMalformed or manifest.ErrSignature.
func Parse(data []byte) (Order, error) {
	e, err := envelope.Parse(data, PayloadType, MaxEnvelope)
	if err != nil {
		return Order{}, fmt.Errorf("order: %w", err)
	}
	return read(e.Payload)
}

var (
	hex16       = regexp.MustCompile(`^[0-9a-f]{32}$`)
	hex32       = regexp.MustCompile(`^[0-9a-f]{64}$`)
	roleGrammar = regexp.MustCompile(`^job/[A-Za-z0-9][A-Za-z0-9._+-]{0,121}\.wasm$`)

	// GroupGrammar is the form of the name of a group of machines.
	GroupGrammar = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$`)
)

// read decodes and checks a payload.
func read(payload []byte) (o Order, err error) {
	if err := envelope.Decode(payload, &o); err != nil {
		return Order{}, fmt.Errorf("order: %w", err)
	}
	if err := o.check(); err != nil {
		return Order{}, malformed("%v", err)
	}
	id := sha256.Sum256(payload)
	o.ID = hex.EncodeToString(id[:])
	return o, nil
}

// check refuses field values that are not an order of this format, whoever has signed it.
func (o Order) check() error {
	switch {
	case o.Format != Format:
		return fmt.Errorf("format %.40q, want %q; use a plasmd of this version", o.Format, Format)
	case !printable(o.Name):
		return fmt.Errorf("name %.60q: must be 1 to %d bytes that print, without a slash", o.Name, maxName)
	case o.InputSHA256 != "" && !hex32.MatchString(o.InputSHA256):
		return fmt.Errorf("input_sha256 %.80q: not 64 lower-case hex digits", o.InputSHA256)
	case o.InputSHA256 != "" && !o.Spec.Grants.Stdin:
		return errors.New("it has an input and asks for no stdin; ask for stdin")
	case !hex16.MatchString(o.Nonce):
		return fmt.Errorf("nonce %.80q: not 32 lower-case hex digits", o.Nonce)
	}
	if err := o.checkModule(); err != nil {
		return err
	}
	if err := o.checkTarget(); err != nil {
		return err
	}
	if err := o.checkDates(); err != nil {
		return err
	}
	return o.Spec.Check()
}

func (o Order) checkModule() error {
	if o.Role != "" && (o.ModuleCID != "" || o.ModuleSHA256 != "") {
		return errors.New("it names a role and a module; name one of them")
	}
	switch {
	case o.Role == "" && o.ModuleCID == "" && o.ModuleSHA256 == "":
		return errors.New("it names no module; name a role of the release, a CID, or a file")
	case o.Role != "" && !roleGrammar.MatchString(o.Role):
		return fmt.Errorf("role %.140q: not the role of a job; write it as job/NAME.wasm", o.Role)
	case o.ModuleSHA256 != "" && !hex32.MatchString(o.ModuleSHA256):
		return fmt.Errorf("module_sha256 %.80q: not 64 lower-case hex digits", o.ModuleSHA256)
	case o.ModuleCID != "":
		c, err := cas.ParseCID(o.ModuleCID)
		if err != nil {
			return err
		}
		if c.String() != o.ModuleCID {
			return fmt.Errorf("module_cid %.80q: must be written %s", o.ModuleCID, c)
		}
	}
	return nil
}

func (o Order) checkTarget() error {
	switch {
	case o.Machine != "" && o.Group != "":
		return errors.New("it names a machine and a group; name one of them")
	case o.Machine != "" && !hex32.MatchString(o.Machine):
		return fmt.Errorf("machine %.80q: not 64 lower-case hex digits", o.Machine)
	case o.Group != "" && !GroupGrammar.MatchString(o.Group):
		return fmt.Errorf("group %.80q: not a name of letters, digits and . _ -, at most 64", o.Group)
	}
	return nil
}

func (o Order) checkDates() error {
	for _, t := range []time.Time{o.NotBefore, o.Expires} {
		if t.Location() != time.UTC || t.Nanosecond() != 0 || t.Year() < 1970 || t.Year() > 9999 {
			return fmt.Errorf("%s: not a UTC date of whole seconds", t.Format(time.RFC3339Nano))
		}
	}
	if !o.NotBefore.Before(o.Expires) {
		return fmt.Errorf("valid from %s until %s: it must expire later", stamp(o.NotBefore), stamp(o.Expires))
	}
	return nil
}

// printable reports whether a name can be an argument, a part of a line and of a path.
func printable(name string) bool {
	return name != "" && len(name) <= maxName && utf8.ValidString(name) && !strings.ContainsFunc(name, func(r rune) bool { return r == '/' || !unicode.IsPrint(r) })
}

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }
