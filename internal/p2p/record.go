package p2p

import (
	"crypto/ed25519"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/ipfs/boxo/ipns"
	"github.com/ipfs/boxo/path"
	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p/core/crypto"

	"github.com/phaseboot/phaseboot/cas"
)

// MaxRecord is the maximum size of an IPNS record, in bytes.
const MaxRecord = ipns.MaxRecordSize

// ErrRecord means that an IPNS record is not valid for its name: wrong key or signature, too large,
// or a value other than /ipfs/CID.
var ErrRecord = errors.New("IPNS record refused")

// ErrNoRecord means that the bytes are not an IPNS record of any name: text, a web page, nothing, or
// an incomplete record. It is an ErrRecord.
var ErrNoRecord = fmt.Errorf("%w: it is none", ErrRecord)

// NewRecord signs a V2 IPNS record that points to /ipfs/folder and expires at eol. ttl is how long a
// resolver may cache it.
func NewRecord(key ed25519.PrivateKey, folder cid.Cid, seq uint64, eol time.Time, ttl time.Duration) ([]byte, error) {
	priv, err := crypto.UnmarshalEd25519PrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("IPNS key: %w", err)
	}
	rec, err := ipns.NewRecord(priv, path.FromCid(folder), seq, eol, ttl, ipns.WithV1Compatibility(false))
	if err != nil {
		return nil, fmt.Errorf("IPNS record: %w", err)
	}
	return ipns.MarshalRecord(rec)
}

// CheckRecord verifies a record of a name and returns the CID that it points to and its sequence
// number. Every error wraps ErrRecord, and ErrNoRecord if the bytes are not a record at all. An
// expired record is accepted: package manifest decides about freshness, from the metadata that it
// points to.
// https://specs.ipfs.tech/ipns/ipns-record/#record-verification
func CheckRecord(name string, data []byte) (folder cid.Cid, seq uint64, err error) {
	refuse := func(cause error) (cid.Cid, uint64, error) {
		return cid.Undef, 0, fmt.Errorf("IPNS %.80q: %w (%w)", name, cause, ErrRecord)
	}
	id, err := ipns.NameFromString(name)
	if err != nil {
		return refuse(err)
	}
	rec, err := ipns.UnmarshalRecord(data)
	if err != nil {
		return cid.Undef, 0, fmt.Errorf("IPNS %.80q: %w (%w)", name, err, ErrNoRecord)
	}
	// Validate checks the date after the signature
	if err := ipns.ValidateWithName(rec, id); err != nil && !errors.Is(err, ipns.ErrExpiredRecord) {
		return refuse(err)
	}
	if seq, err = rec.Sequence(); err != nil {
		return refuse(err)
	}
	value, err := rec.Value()
	if err != nil {
		return refuse(err)
	}
	text, ok := strings.CutPrefix(value.String(), "/ipfs/")
	if !ok {
		return refuse(fmt.Errorf("value %.80q is not /ipfs/CID", value.String()))
	}
	if folder, err = cas.ParseCID(text); err != nil {
		return refuse(err)
	}
	return folder, seq, nil
}

// RecordEnd returns the time at which a record expires. It verifies nothing.
func RecordEnd(data []byte) (time.Time, error) {
	rec, err := ipns.UnmarshalRecord(data)
	if err != nil {
		return time.Time{}, fmt.Errorf("%w (%w)", err, ErrRecord)
	}
	return rec.Validity()
}

// anyDateValidator validates the IPNS records that a DHT client receives, but accepts expired ones as
// CheckRecord does: the clock of the client may be wrong.
type anyDateValidator struct{ ipns.Validator }

// Validate returns an error unless value is a record of the name in key, with its signature.
func (v anyDateValidator) Validate(key string, value []byte) error {
	if err := v.Validator.Validate(key, value); !errors.Is(err, ipns.ErrExpiredRecord) {
		return err
	}
	return nil
}
