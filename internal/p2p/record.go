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

// MaxRecord is the greatest size of an IPNS record, in bytes.
const MaxRecord = ipns.MaxRecordSize

// ErrRecord says that an IPNS record is not a valid one of its name: wrong key or
// signature, too big, or pointing to something other than /ipfs/CID.
var ErrRecord = errors.New("IPNS record refused")

// ErrNoRecord says that bytes are no IPNS record of anybody: text, a web page, nothing, or a
// record that was cut. It is an ErrRecord.
var ErrNoRecord = fmt.Errorf("%w: it is none", ErrRecord)

// NewRecord signs a V2 IPNS record that points to /ipfs/folder until eol. ttl says how
// long a resolver may keep it.
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

// CheckRecord verifies a record of a name and returns what it points to and its
// sequence number. Every refusal wraps ErrRecord, and ErrNoRecord when nobody signed it. A record whose time is over still points:
// how fresh the metadata is, the metadata says, and is judged by a better clock than ours.
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
	// the date is what Validate looks at after the signature
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

// RecordEnd is the time until which a record is good. It checks nothing else.
func RecordEnd(data []byte) (time.Time, error) {
	rec, err := ipns.UnmarshalRecord(data)
	if err != nil {
		return time.Time{}, fmt.Errorf("%w (%w)", err, ErrRecord)
	}
	return rec.Validity()
}

// undated validates the IPNS records that a DHT client receives, but for the date until which
// they are good: as in CheckRecord, the client's clock may be wrong.
type undated struct{ ipns.Validator }

// Validate is an error unless value is a record of the name in key, signed by it.
func (v undated) Validate(key string, value []byte) error {
	if err := v.Validator.Validate(key, value); !errors.Is(err, ipns.ErrExpiredRecord) {
		return err
	}
	return nil
}
