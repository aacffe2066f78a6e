package attest

import (
	"bytes"
	"crypto/ed25519"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/phaseboot/phaseboot/imagebuild"
	"github.com/phaseboot/phaseboot/internal/envelope"
	"github.com/phaseboot/phaseboot/internal/refusal"
	"github.com/phaseboot/phaseboot/manifest"
)

// MaxFile bounds a statement in bytes.
const MaxFile = 1 << 20

// A File is a statement as it was read.
type File struct {
	Name string
	Data []byte
}

// A Verdict says which statements count for an image.
type Verdict struct {
	Threshold int       `json:"threshold"`
	Accepted  []Counted `json:"accepted"`
	Refused   []Refused `json:"refused,omitempty"`
}

// Counted is a statement that counts.
type Counted struct {
	File  string `json:"file"`
	KeyID string `json:"keyid"`
	Whole bool   `json:"whole"` // about the whole image; else about its EFI system partitions
}

// Refused is a statement that does not count, with the reason.
type Refused struct {
	File   string `json:"file"`
	Reason string `json:"reason"`
}

// CheckDemand refuses a list of rebuilders with the same key twice, and a threshold that it cannot meet.
func CheckDemand(keys []ed25519.PublicKey, threshold int) error {
	for i, k := range keys {
		if j := slices.IndexFunc(keys[:i], func(o ed25519.PublicKey) bool { return o.Equal(k) }); j >= 0 {
			return refusal.Invalid("rebuilders %d and %d: the same key %.16s; name each rebuilder once", j+1, i+1, manifest.KeyID(k))
		}
	}
	if threshold < 1 || threshold > len(keys) {
		return refusal.Invalid("threshold %d: must be between 1 and the number of rebuilders, %d", threshold, len(keys))
	}
	return nil
}

// Demand judges statements about an image that imagebuild.Verify has read. At least threshold of the keys must have
// signed one each; otherwise the error wraps manifest.ErrUntrusted and names the reason for each file.
func Demand(c *imagebuild.Contents, files []File, keys []ed25519.PublicKey, threshold int) (*Verdict, error) {
	if err := CheckDemand(keys, threshold); err != nil {
		return nil, err
	}
	v := &Verdict{Threshold: threshold, Accepted: []Counted{}}
	for _, f := range files {
		counted, err := judge(c, f, keys)
		if err == nil {
			err = v.once(counted)
		}
		if err != nil {
			v.Refused = append(v.Refused, Refused{f.Name, err.Error()})
			continue
		}
		v.Accepted = append(v.Accepted, counted)
	}
	if len(v.Accepted) >= threshold {
		return v, nil
	}
	text := fmt.Sprintf("image %s: %d of the %d rebuilders that are demanded have stated that they rebuilt it", c.Image, len(v.Accepted), threshold)
	for _, r := range v.Refused {
		text += fmt.Sprintf("; %s: %s", r.File, r.Reason)
	}
	return v, refusal.New(manifest.ErrUntrusted, "%s; get more statements, or do not trust it", text)
}

// once refuses a second statement of a key.
func (v *Verdict) once(c Counted) error {
	for _, before := range v.Accepted {
		if before.KeyID == c.KeyID {
			return fmt.Errorf("key %.16s: has signed %s too; a rebuilder counts once", c.KeyID, before.File)
		}
	}
	return nil
}

// judge checks one statement: form, signature, types, subject, in this order.
func judge(c *imagebuild.Contents, f File, keys []ed25519.PublicKey) (Counted, error) {
	e, err := open(f.Data)
	if err != nil {
		return Counted{}, err
	}
	if err := signedBy(e, keys); err != nil {
		return Counted{}, err
	}
	var s Statement
	if err := json.Unmarshal(e.Payload, &s); err != nil {
		return Counted{}, fmt.Errorf("payload: not a statement: %.120q", err.Error())
	}
	if err := s.check(e.KeyID); err != nil {
		return Counted{}, err
	}
	whole, err := s.about(c)
	return Counted{f.Name, e.KeyID, whole}, err
}

// open reads an envelope. Blanks between its parts are free: people indent these files.
func open(data []byte) (envelope.Envelope, error) {
	var compact bytes.Buffer
	if len(data) <= MaxFile && json.Compact(&compact, data) == nil {
		data = compact.Bytes()
	}
	return envelope.Parse(data, PayloadType, MaxFile)
}

// signedBy refuses an envelope that none of keys has signed.
func signedBy(e envelope.Envelope, keys []ed25519.PublicKey) error {
	i := slices.IndexFunc(keys, func(k ed25519.PublicKey) bool { return manifest.KeyID(k) == e.KeyID })
	if i < 0 {
		return fmt.Errorf("signed by key %.16q, which is none of the rebuilders that are demanded", e.KeyID)
	}
	if !e.SignedBy(keys[i]) {
		return fmt.Errorf("key %.16s: the signature is wrong: the statement was changed, or another key has signed it", e.KeyID)
	}
	return nil
}

// check refuses a statement of another kind, or in the name of another rebuilder than the key.
func (s *Statement) check(keyID string) error {
	for _, f := range []struct{ what, is, want string }{
		{"statement", s.Type, StatementType},
		{"predicate", s.PredicateType, PredicateType},
		{"build", s.Predicate.BuildDefinition.BuildType, BuildType},
		{"builder", s.Predicate.RunDetails.Builder.ID, builderPrefix + keyID},
	} {
		if f.is != f.want {
			return fmt.Errorf("%s of type %.160q, want %s", f.what, f.is, f.want)
		}
	}
	return nil
}

// about finds the image among the subjects, and reports whether the whole image is one, or only its EFI system
// partitions.
func (s *Statement) about(c *imagebuild.Contents) (whole bool, err error) {
	has := func(sum string) bool {
		return sum != "" && slices.ContainsFunc(s.Subject, func(d Descriptor) bool { return d.Digest.SHA256 == sum })
	}
	switch {
	case has(c.SHA256):
		return true, nil
	case has(c.BootSum):
		return false, nil
	}
	var names []string
	for _, d := range s.Subject[:min(3, len(s.Subject))] {
		names = append(names, fmt.Sprintf("%.60q with sha256 %.64q", d.Name, d.Digest.SHA256))
	}
	return false, fmt.Errorf("about another image: %s", strings.Join(names, ", "))
}
