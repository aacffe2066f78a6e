package order

import (
	"cmp"
	"crypto/ed25519"
	"encoding/hex"
	"fmt"
	"slices"
	"time"

	"github.com/phaseboot/phaseboot/internal/envelope"
	"github.com/phaseboot/phaseboot/internal/refusal"
	"github.com/phaseboot/phaseboot/manifest"
)

// Reasons for a refusal by Open, besides manifest.ErrSignature, manifest.ErrExpired and manifest.ErrMalformed.
var (
	ErrNotYet    = fmt.Errorf("%w: not yet valid", manifest.ErrUntrusted)
	ErrElsewhere = fmt.Errorf("%w: for another machine", manifest.ErrUntrusted)
	ErrPolicy    = fmt.Errorf("%w: more than the submitter may ask for", manifest.ErrUntrusted)
)

// Open reads an envelope and judges it: form, signature by a submitter of the release, fields, the machine and
// its groups, dates, and what the submitter may ask for, in this order. A limit of 0 for processor time becomes
// the submitter's, or twice the time limit if that is lower. ID of the order is set.
//
// A refusal wraps manifest.ErrSignature (unsigned, another payload type, not a submitter, a changed byte),
// ErrElsewhere, manifest.ErrExpired, ErrNotYet or ErrPolicy; what is not an order wraps manifest.ErrMalformed.
func Open(data []byte, submitters []manifest.Submitter, machine ed25519.PublicKey, groups []string, now time.Time) (Order, manifest.Submitter, error) {
	e, err := envelope.Parse(data, PayloadType, MaxEnvelope)
	if err != nil {
		return Order{}, manifest.Submitter{}, fmt.Errorf("order: %w", err)
	}
	by, err := signedBy(e, submitters)
	if err != nil {
		return Order{}, manifest.Submitter{}, err
	}
	o, err := read(e.Payload)
	if err != nil {
		return Order{}, manifest.Submitter{}, err
	}
	for _, err := range []error{o.isFor(machine, groups), o.isValid(now), o.isAllowed(by)} {
		if err != nil {
			return Order{}, manifest.Submitter{}, err
		}
	}
	if o.Spec.Limits.CPU == 0 {
		o.Spec.Limits.CPU = min(2*o.Spec.Limits.Timeout, milliseconds(by.Limits.CPU))
	}
	return o, by, nil
}

// signedBy returns the submitter whose key has signed an envelope.
func signedBy(e envelope.Envelope, submitters []manifest.Submitter) (manifest.Submitter, error) {
	if len(submitters) == 0 {
		return manifest.Submitter{}, refuse(manifest.ErrSignature, "the release of this machine names no submitters, so it takes no jobs from the network; name one with 'phase-sign release --submitter'")
	}
	i := slices.IndexFunc(submitters, func(s manifest.Submitter) bool { return manifest.KeyID(s.Key) == e.KeyID })
	if i < 0 {
		return manifest.Submitter{}, refuse(manifest.ErrSignature, "signed by key %.16q, which is none of the submitters of the release; sign it with the key of one of them", e.KeyID)
	}
	if !e.SignedBy(submitters[i].Key) {
		return manifest.Submitter{}, refuse(manifest.ErrSignature, "the signature of submitter %.64q is wrong: it was changed, or another key has signed it; submit it again", submitters[i].Name)
	}
	return submitters[i], nil
}

// isFor refuses an order for another machine or group.
func (o Order) isFor(machine ed25519.PublicKey, groups []string) error {
	switch {
	case o.Machine != "" && o.Machine != hex.EncodeToString(machine):
		return refuse(ErrElsewhere, "for machine %.16s…, and this one is %.16s…; submit it there", o.Machine, hex.EncodeToString(machine))
	case o.Group != "" && !slices.Contains(groups, o.Group):
		return refuse(ErrElsewhere, "for group %q, to which this machine does not belong; submit it to a machine of the group", o.Group)
	}
	return nil
}

// isValid refuses an order whose dates do not include now.
func (o Order) isValid(now time.Time) error {
	switch {
	case !now.Before(o.Expires):
		return refuse(manifest.ErrExpired, "expired at %s, and this machine has %s; submit it again, or set the clocks right", stamp(o.Expires), stamp(now))
	case now.Before(o.NotBefore):
		return refuse(ErrNotYet, "not valid before %s, and this machine has %s; wait, or set the clocks right", stamp(o.NotBefore), stamp(now))
	case o.Expires.Sub(now) > MaxAhead:
		return refuse(ErrPolicy, "expires at %s, more than %d hours after now, %s; give it a shorter life, or set the clocks right", stamp(o.Expires), int(MaxAhead.Hours()), stamp(now))
	}
	return nil
}

// isAllowed refuses what the submitter may not ask for.
func (o Order) isAllowed(by manifest.Submitter) error {
	return cmp.Or(o.checkGrants(by), o.checkLimits(by))
}

func (o Order) checkGrants(by manifest.Submitter) error {
	g, may := o.Spec.Grants, by.Grants
	for _, grant := range []struct {
		name     string
		asks, is bool
	}{{"stdin", g.Stdin, may.Stdin}, {"clock", g.Clock, may.Clock}, {"random", g.Random, may.Random}, {"scratch", g.Scratch > 0, may.Scratch > 0}} {
		if grant.asks && !grant.is {
			return refuse(ErrPolicy, "it asks for %s, which the release does not grant to submitter %.64q; ask for less, or for a release that grants it", grant.name, by.Name)
		}
	}
	for _, role := range g.Artifacts {
		if !slices.Contains(may.Artifacts, role) {
			return refuse(ErrPolicy, "it asks for artifact %.80q, which the release does not grant to submitter %.64q; ask for less, or for a release that grants it", role, by.Name)
		}
	}
	return nil
}

func (o Order) checkLimits(by manifest.Submitter) error {
	l := o.Spec.Limits
	for _, limit := range []struct {
		name      string
		asks, may int64
		unit      string
	}{
		{"memory", l.Memory, by.Limits.Memory, "bytes"},
		{"time", l.Timeout.Milliseconds(), by.Limits.Timeout, "ms"},
		{"processor time", l.CPU.Milliseconds(), by.Limits.CPU, "ms"},
		{"output", l.Output, by.Limits.Output, "bytes"},
		{"scratch folder", o.Spec.Grants.Scratch, by.Grants.Scratch, "bytes"},
	} {
		if limit.asks > limit.may {
			return refuse(ErrPolicy, "%s: it asks for %d %s, and submitter %.64q may have %d; ask for less", limit.name, limit.asks, limit.unit, by.Name, limit.may)
		}
	}
	return nil
}

// milliseconds returns a duration of a policy, whose numbers have no upper bound of their own.
func milliseconds(n int64) time.Duration {
	return time.Duration(min(n, int64(100*24*time.Hour/time.Millisecond))) * time.Millisecond
}

func refuse(reason error, format string, args ...any) error {
	return refusal.New(reason, "order: %s", fmt.Sprintf(format, args...))
}

func malformed(format string, args ...any) error {
	return refuse(manifest.ErrMalformed, format, args...)
}
