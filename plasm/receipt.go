package plasm

import (
	"bytes"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/secure-systems-lab/go-securesystemslib/cjson"

	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/manifest"
)

// ReceiptFormat is the value of a receipt's format field. The signature covers it, so that no other
// signed document of the same key can be used as a receipt.
const ReceiptFormat = "phaseboot/receipt/v1"

// maxReceipt is the maximum size of a receipt, in bytes. A real one has about 900.
const maxReceipt = 16 << 10

// A Receipt says which job a machine ran and how the run ended. The machine's key signs it.
//
// It has one encoding, canonical JSON: sorted keys, no white space, integers only, and strings of plain
// ASCII without escapes. OLPC canonical JSON and RFC 8785 agree on these. The signature is Ed25519 over
// the encoding of the receipt without its signature field.
type Receipt struct {
	Format     string          `json:"format"`
	Module     ReceiptModule   `json:"module"`
	Release    *ReceiptRelease `json:"release,omitempty"` // absent for a job from a file
	Started    string          `json:"started"`           // RFC 3339, UTC, whole seconds
	DurationMS int64           `json:"duration_ms"`
	MemoryPeak int64           `json:"memory_peak_bytes"` // linear memory
	Reason     string          `json:"reason"`            // one of the Reason constants
	ExitCode   int64           `json:"exit_code"`         // NoExitCode if it was stopped
	Output     Output          `json:"output"`
	Limits     ReceiptLimits   `json:"limits"`
	Machine    ReceiptMachine  `json:"machine"`
	Signature  string          `json:"signature,omitempty"` // base64 of 64 bytes
}

// ReceiptModule identifies the module that ran.
type ReceiptModule struct {
	CID    string `json:"cid"`
	SHA256 string `json:"sha256"` // 64 lower-case hex digits
	Length int64  `json:"length"` // bytes
}

// ReceiptRelease identifies the signed release of the job.
type ReceiptRelease struct {
	Channel string `json:"channel"`
	Arch    string `json:"arch"`
	Version string `json:"version"`
	Number  int64  `json:"role_version"` // TUF version of the role
}

// ReceiptLimits are the limits of the job.
type ReceiptLimits struct {
	Memory    int64 `json:"memory_bytes"`
	TimeoutMS int64 `json:"timeout_ms"`
	Output    int64 `json:"output_bytes"`
}

// ReceiptMachine is the key that signed.
type ReceiptMachine struct {
	Key       string `json:"ed25519"`   // 64 lower-case hex digits
	Ephemeral bool   `json:"ephemeral"` // made for this run only
}

// NewReceipt returns an unsigned receipt of a run. rel is nil for a job from a file.
func NewReceipt(job Job, rel *manifest.Release, lim Limits, o Outcome) Receipt {
	r := Receipt{
		Format:     ReceiptFormat,
		Module:     ReceiptModule{CID: job.CID.String(), SHA256: job.SHA256, Length: int64(len(job.Module))},
		Started:    o.Started.UTC().Format(time.RFC3339),
		DurationMS: o.Duration().Milliseconds(),
		MemoryPeak: o.MemoryPeak,
		Reason:     o.Reason,
		ExitCode:   o.ExitCode,
		Output:     o.Output,
		Limits:     ReceiptLimits{Memory: lim.Memory, TimeoutMS: lim.Timeout.Milliseconds(), Output: lim.Output},
	}
	if rel != nil {
		r.Release = &ReceiptRelease{Channel: rel.Channel, Arch: rel.Arch, Version: rel.Version, Number: rel.Number}
	}
	return r
}

// Sign returns the receipt with the machine's key and signature. A field without a canonical form, such
// as a version string with a quote, is an error that wraps manifest.ErrMalformed.
func (r Receipt) Sign(key ed25519.PrivateKey, ephemeral bool) (Receipt, error) {
	r.Machine = ReceiptMachine{Key: hex.EncodeToString(key.Public().(ed25519.PublicKey)), Ephemeral: ephemeral}
	body, err := r.signed()
	if err != nil {
		return Receipt{}, err
	}
	r.Signature = base64.StdEncoding.EncodeToString(ed25519.Sign(key, body))
	return r, r.check()
}

// Encode returns the canonical JSON of a signed receipt, without a newline.
func (r Receipt) Encode() ([]byte, error) {
	data, err := cjson.EncodeCanonical(r)
	if err != nil {
		return nil, fmt.Errorf("receipt: %w", err)
	}
	return data, nil
}

// signed returns the bytes that the signature covers.
func (r Receipt) signed() ([]byte, error) {
	r.Signature = ""
	return r.Encode()
}

// ParseReceipt reads a receipt in its canonical form, with at most one newline at its end. It does not
// check the signature: Verify does. An error wraps manifest.ErrMalformed; an accepted receipt encodes to
// the same bytes.
func ParseReceipt(data []byte) (Receipt, error) {
	var r Receipt
	line := bytes.TrimSuffix(data, []byte("\n"))
	if len(line) > maxReceipt {
		return Receipt{}, fmt.Errorf("receipt: %d bytes, the limit is %d: %w", len(line), maxReceipt, manifest.ErrMalformed)
	}
	d := json.NewDecoder(bytes.NewReader(line))
	d.DisallowUnknownFields()
	if err := d.Decode(&r); err != nil {
		return Receipt{}, fmt.Errorf("receipt: %.200q: %w", err.Error(), manifest.ErrMalformed)
	}
	if err := r.check(); err != nil {
		return Receipt{}, err
	}
	again, err := r.Encode()
	if err != nil || !bytes.Equal(again, line) {
		return Receipt{}, fmt.Errorf("receipt: not in its canonical form: %w; use the file as plasmd wrote it", manifest.ErrMalformed)
	}
	return r, nil
}

// PublicKey returns the key that the receipt names.
func (r Receipt) PublicKey() (ed25519.PublicKey, error) {
	key, err := hex.DecodeString(r.Machine.Key)
	if err != nil || len(key) != ed25519.PublicKeySize {
		return nil, fmt.Errorf("receipt: the machine's key is not 32 bytes in hex: %w", manifest.ErrMalformed)
	}
	return key, nil
}

// Verify checks the signature with the key that the receipt names. If key is not nil, the receipt must
// name this key. A refusal wraps manifest.ErrSignature. Without key, Verify shows only that the receipt
// was not changed, not which machine signed it.
func (r Receipt) Verify(key ed25519.PublicKey) error {
	named, err := r.PublicKey()
	if err != nil {
		return err
	}
	if key != nil && !named.Equal(key) {
		return fmt.Errorf("receipt: signed by machine %s, not by %x: %w", r.Machine.Key, []byte(key), manifest.ErrSignature)
	}
	sig, err := base64.StdEncoding.Strict().DecodeString(r.Signature)
	if err != nil {
		return fmt.Errorf("receipt: the signature is not base64: %w", manifest.ErrMalformed)
	}
	body, err := r.signed()
	if err != nil {
		return err
	}
	if !ed25519.Verify(named, body, sig) {
		return fmt.Errorf("receipt: it was altered after machine %.16s… signed it: %w", r.Machine.Key, manifest.ErrSignature)
	}
	return nil
}

// check refuses field values that plasmd never writes.
func (r Receipt) check() error {
	if err := r.checkFields(); err != nil {
		return fmt.Errorf("receipt: %w: %w", err, manifest.ErrMalformed)
	}
	return nil
}

func (r Receipt) checkFields() error {
	if r.Format != ReceiptFormat {
		return fmt.Errorf("format %.40q; this plasmd reads %q", r.Format, ReceiptFormat)
	}
	if _, err := cas.ParseCID(r.Module.CID); err != nil {
		return err
	}
	if when, err := time.Parse(time.RFC3339, r.Started); err != nil || when.UTC().Format(time.RFC3339) != r.Started {
		return fmt.Errorf("started %.40q is not a UTC time of whole seconds", r.Started)
	}
	if !isHex32(r.Module.SHA256) || !isHex32(r.Output.SHA256) || !isHex32(r.Machine.Key) {
		return errors.New("a digest or key is not 64 lower-case hex digits")
	}
	if sig, err := base64.StdEncoding.Strict().DecodeString(r.Signature); err != nil || len(sig) != ed25519.SignatureSize {
		return errors.New("the signature is not 64 bytes in base64")
	}
	if r.Release != nil && !(plain(r.Release.Channel) && plain(r.Release.Arch) && plain(r.Release.Version)) {
		return errors.New("a release, channel or arch is empty or has characters beyond plain ASCII")
	}
	return r.checkNumbers()
}

func (r Receipt) checkNumbers() error {
	if !KnownReason(r.Reason) {
		return fmt.Errorf("unknown reason %.40q", r.Reason)
	}
	numbers := []int64{
		r.Module.Length, r.DurationMS, r.MemoryPeak, r.ExitCode + 1, r.Output.Length,
		r.Limits.Memory, r.Limits.TimeoutMS, r.Limits.Output,
	}
	if r.Release != nil {
		numbers = append(numbers, r.Release.Number)
	}
	for _, n := range numbers {
		if n < 0 || n > 1<<53 {
			return errors.New("a number is negative or beyond 2^53")
		}
	}
	if r.Reason == ReasonExit && r.ExitCode == NoExitCode {
		return errors.New("reason exit without an exit code")
	}
	return nil
}

// isHex32 reports whether s is 32 bytes in lower-case hex.
func isHex32(s string) bool {
	raw, err := hex.DecodeString(s)
	return err == nil && len(raw) == 32 && hex.EncodeToString(raw) == s
}

// plain reports whether every JSON encoder writes a string without escapes.
func plain(s string) bool {
	escaped := func(r rune) bool { return r < ' ' || r > '~' || strings.ContainsRune(`"\<>&`, r) }
	return s != "" && len(s) <= 200 && !strings.ContainsFunc(s, escaped)
}
