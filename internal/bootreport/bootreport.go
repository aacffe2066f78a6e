package bootreport

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"regexp"
	"time"

	"github.com/sigstore/sigstore/pkg/signature"

	"github.com/phaseboot/phaseboot/internal/envelope"
	"github.com/phaseboot/phaseboot/internal/refusal"
	"github.com/phaseboot/phaseboot/manifest"
)

const (
	// Path is where a publisher takes documents with POST.
	Path = "/phase/v1/reports"
	// Type is the payload type of the envelope.
	Type = "application/vnd.phaseboot.boot-report+json"
	// MediaType is the Content-Type of a document.
	MediaType = "application/vnd.dsse.envelope.v1+json"
	// Format is the value of Document.Format.
	Format = "phaseboot/boot-report/v1"
	// MaxDocument is the most bytes of a document as it is sent.
	MaxDocument = 256 << 10
)

// Limits of the parts of a document.
const (
	MaxConsole = 100 // lines
	maxLine    = 400 // bytes of one
	maxGroups  = 64
	maxName    = 253 // bytes of a host name, a group or an architecture
)

// A Document says how one boot of a machine went. A later document with the same BootID replaces an earlier one.
type Document struct {
	Format    string          `json:"format"`
	Machine   string          `json:"machine"`             // the public Ed25519 key of the machine, 64 hex digits
	Ephemeral bool            `json:"ephemeral,omitempty"` // the key is of this boot alone: the machine has no cache
	MachineID string          `json:"machine_id,omitempty"`
	Hostname  string          `json:"hostname,omitempty"`
	Arch      string          `json:"arch,omitempty"`
	Groups    []string        `json:"groups,omitempty"`
	Tries     json.RawMessage `json:"tries,omitempty"`         // an object: how often releases were tried
	Report    json.RawMessage `json:"report"`                  // the boot report
	Console   []string        `json:"console,omitempty"`       // the last lines of the console, of a failed boot
	Recipient string          `json:"age_recipient,omitempty"` // for secrets that only this machine can open
	BootID    string          `json:"boot_id"`                 // of the attempt, 32 hex digits
	SentAt    time.Time       `json:"sent_at"`                 // by the clock of the machine
}

// Sign returns the document as it is sent. It sets Format and Machine, and shortens the console and the lists of the
// report until the document has at most MaxDocument bytes.
func Sign(ctx context.Context, d Document, key ed25519.PrivateKey) ([]byte, error) {
	public, ok := key.Public().(ed25519.PublicKey)
	if !ok || len(public) != ed25519.PublicKeySize {
		return nil, fmt.Errorf("machine key: not an Ed25519 key")
	}
	signer, err := signature.LoadED25519Signer(key)
	if err != nil {
		return nil, err
	}
	d.Format, d.Machine, d.SentAt = Format, hex.EncodeToString(public), d.SentAt.UTC().Truncate(time.Second)
	for {
		payload, err := envelope.Canonical(d)
		if err != nil {
			return nil, fmt.Errorf("boot report: %w", err)
		}
		signed, err := envelope.Sign(ctx, Type, payload, signer, public)
		if err != nil {
			return nil, fmt.Errorf("boot report: %w", err)
		}
		data := signed.Bytes()
		if len(data) <= MaxDocument {
			return data, nil
		}
		if err := d.shorten(); err != nil {
			return nil, err
		}
	}
}

// JSON returns the document as one line of printable ASCII.
func (d Document) JSON() ([]byte, error) { return envelope.Canonical(d) }

// shorten halves the console and the lists of the report: hostile peers can make them long. Of the steps and the console the
// last ones stay, which tell why a boot has failed; refusals and sources stand in the order of the boot, whose first ones
// tell most.
func (d *Document) shorten() error {
	var report map[string]json.RawMessage
	if err := json.Unmarshal(d.Report, &report); err != nil {
		return fmt.Errorf("boot report: %w", err)
	}
	d.Console = d.Console[(len(d.Console)+1)/2:]
	left := len(d.Console)
	for _, name := range []string{"refused", "sources", "steps"} {
		var list []json.RawMessage
		if json.Unmarshal(report[name], &list) != nil || len(list) == 0 {
			continue
		}
		if half := len(list) / 2; name == "steps" {
			list = list[len(list)-half:]
		} else {
			list = list[:half]
		}
		left += len(list)
		report[name], _ = json.Marshal(list) // raw JSON that was just read
	}
	if left == 0 && string(report["shortened"]) == "true" {
		return fmt.Errorf("boot report: more than %d bytes", MaxDocument)
	}
	report["shortened"] = json.RawMessage("true")
	data, err := json.Marshal(report)
	d.Report = data
	return err
}

var (
	hex32 = regexp.MustCompile(`^[0-9a-f]{32}$`)
	hex64 = regexp.MustCompile(`^[0-9a-f]{64}$`)
)

// Open reads a document and checks its signature with the key that it names. The error wraps manifest.ErrMalformed or
// manifest.ErrSignature. Fields that it does not know are ignored.
func Open(data []byte) (Document, error) {
	var d Document
	e, err := envelope.Parse(data, Type, MaxDocument)
	if err != nil {
		return d, err
	}
	if err := json.Unmarshal(e.Payload, &d); err != nil {
		return d, malformed("%.160q", err.Error())
	}
	if d.Format != Format {
		return d, malformed("format %.80q, want %s", d.Format, Format)
	}
	key, err := hex.DecodeString(d.Machine)
	if err != nil || !hex64.MatchString(d.Machine) {
		return d, malformed("machine %.80q: not a key of 64 hex digits", d.Machine)
	}
	if !e.SignedBy(key) {
		return d, refusal.New(manifest.ErrSignature, "boot report: not signed by the key %s that it names", d.Machine)
	}
	if again, err := envelope.Canonical(json.RawMessage(e.Payload)); err != nil || !bytes.Equal(again, e.Payload) {
		return d, malformed("not in its canonical form")
	}
	return d, d.check()
}

func (d Document) check() error {
	switch {
	case !hex32.MatchString(d.BootID):
		return malformed("boot_id %.80q: must have 32 hex digits", d.BootID)
	case d.MachineID != "" && !hex64.MatchString(d.MachineID):
		return malformed("machine_id %.80q: must have 64 hex digits", d.MachineID)
	case d.SentAt.IsZero():
		return malformed("sent_at: missing")
	case !isObject(d.Report):
		return malformed("report: must be an object")
	case len(d.Tries) > 0 && !isObject(d.Tries):
		return malformed("tries: must be an object")
	case len(d.Groups) > maxGroups || len(d.Console) > MaxConsole:
		return malformed("%d groups and %d console lines: at most %d and %d", len(d.Groups), len(d.Console), maxGroups, MaxConsole)
	}
	for _, name := range append([]string{d.Hostname, d.Arch, d.Recipient}, d.Groups...) {
		if len(name) > maxName {
			return malformed("%.40q…: at most %d bytes", name, maxName)
		}
	}
	return nil
}

func isObject(data json.RawMessage) bool { return len(data) > 1 && data[0] == '{' }

func malformed(format string, args ...any) error {
	return refusal.New(manifest.ErrMalformed, "boot report: %s", fmt.Sprintf(format, args...))
}

// A Summary has the fields of a boot report that a list of boots shows. A field that the report lacks is zero. Texts
// are made printable and cut.
type Summary struct {
	Result   string        // "ok" or "failed"
	Error    string        // the reason of a failed boot
	Step     string        // the step that failed
	Mode     string        // name of the boot mode
	Channel  string        // of the release that was chosen
	Release  string        // its version
	Number   int64         // its role version
	Started  time.Time     // when the kernel of the boot started, by the clock of the machine
	Duration time.Duration // up to the jump
	Starts   int64         // of the release without a blessing; 0 if they are not counted
	Failed   string        // version of the newest release, in whose place an older one was booted
}

// Summary reads the summary of the report. A report of another form has an empty one.
func (d Document) Summary() Summary {
	var r struct {
		Result   string    `json:"result"`
		Error    string    `json:"error"`
		Mode     string    `json:"mode"`
		Start    time.Time `json:"start"`
		Duration int64     `json:"duration_ms"`
		Release  struct {
			Channel string `json:"channel"`
			Version string `json:"release"`
			Number  int64  `json:"role_version"`
		} `json:"release"`
		Steps []struct {
			Name  string `json:"name"`
			Error string `json:"error"`
		} `json:"steps"`
		Tries struct {
			Starts int64 `json:"starts"`
			Failed struct {
				Version string `json:"release"`
			} `json:"failed"`
		} `json:"tries"`
	}
	if err := json.Unmarshal(d.Report, &r); err != nil {
		return Summary{}
	}
	step := ""
	for _, s := range r.Steps {
		if s.Error != "" && r.Result == "failed" {
			step = s.Name
		}
	}
	return Summary{
		Result: cut(r.Result, 16), Error: cut(r.Error, maxLine), Step: cut(step, 64), Mode: cut(r.Mode, 32), Channel: cut(r.Release.Channel, 64),
		Release: cut(r.Release.Version, 128), Number: r.Release.Number, Started: r.Start.UTC(),
		Starts: max(r.Tries.Starts, 0), Failed: cut(r.Tries.Failed.Version, 128),
		Duration: time.Duration(min(max(r.Duration, 0), int64(time.Hour*24*365/time.Millisecond))) * time.Millisecond,
	}
}

// cut makes a text printable and shortens it.
func cut(s string, most int) string {
	if len(s) > most {
		s = string(bytes.ToValidUTF8([]byte(s[:most]), nil))
	}
	return refusal.Printable(s)
}
