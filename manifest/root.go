package manifest

import (
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"time"

	"github.com/theupdateframework/go-tuf/v2/metadata"
)

// A Root is a root.json that is whole and signed by itself: the one file that a
// machine trusts from the start. Whether it is the right one, nobody can say but the
// person who put it there.
type Root struct {
	meta      *metadata.Metadata[metadata.RootType]
	discovery Discovery
	data      []byte
}

// ParseRoot reads a root.json: lint, then its signatures by its own keys and
// threshold. Expiry is judged by Verify, which may find a newer one.
func ParseRoot(data []byte) (*Root, error) {
	meta, err := Parse[metadata.RootType](KindRoot, data)
	if err != nil {
		return nil, inFile("root.json", err)
	}
	name := FileName(roleRoot, meta.Signed.Version)
	if err := meta.VerifyDelegate(roleRoot, meta); err != nil {
		return nil, refuseSignatures(name, rootAuthority(meta, roleRoot), meta, "it must be signed by its own root keys; get root.json from the signer again")
	}
	d, err := readDiscovery(meta.Signed.UnrecognizedFields[extension])
	if err != nil {
		return nil, inFile(name, err)
	}
	return &Root{meta, d, data}, nil
}

// Next reads the root that follows r: one version later, signed by r's root keys and by
// its own. Anything else wraps ErrSignature, ErrRollback or ErrMalformed.
func (r *Root) Next(data []byte) (*Root, error) {
	name := FileName(roleRoot, r.Version()+1)
	next, err := Parse[metadata.RootType](KindRoot, data)
	if err != nil {
		return nil, inFile(name, err)
	}
	if err := follows(r.meta, name, next); err != nil {
		return nil, err
	}
	return ParseRoot(data)
}

// follows judges a root by the one before it.
func follows(old *metadata.Metadata[metadata.RootType], name string, next *metadata.Metadata[metadata.RootType]) error {
	if old.VerifyDelegate(roleRoot, next) != nil {
		return refuseSignatures(name, rootAuthority(old, roleRoot), next,
			fmt.Sprintf("it must be signed by the keys of root version %d; is this the right repository for your root.json?", old.Signed.Version))
	}
	if next.Signed.Version != old.Signed.Version+1 {
		return refuse(ErrRollback, "%s: says version %d where %d must follow; ask another source", name, next.Signed.Version, old.Signed.Version+1)
	}
	if next.VerifyDelegate(roleRoot, next) != nil {
		return refuseSignatures(name, rootAuthority(next, roleRoot), next, "it must also be signed by its own root keys; the signer has to complete it")
	}
	return nil
}

// Owns reports whether targets, a snapshot or a timestamp is signed by the keys that r
// lists for it; if not, the error wraps ErrSignature. Dates are not judged.
func (r *Root) Owns(kind Kind, data []byte) error {
	switch kind {
	case KindTargets:
		return owns[metadata.TargetsType](r, kind, data)
	case KindSnapshot:
		return owns[metadata.SnapshotType](r, kind, data)
	case KindTimestamp:
		return owns[metadata.TimestampType](r, kind, data)
	}
	return malformed("%s metadata: not a role of the root's", kind)
}

func owns[T metadata.Roles](r *Root, kind Kind, data []byte) error {
	m, err := Parse[T](kind, data)
	if err != nil {
		return inFile(string(kind)+".json", err)
	}
	if r.meta.VerifyDelegate(string(kind), m) != nil {
		return refuseSignatures(string(kind)+".json", rootAuthority(r.meta, string(kind)), m, fmt.Sprintf("root version %d lists others", r.Version()))
	}
	return nil
}

// Discovery says where the repository may be found.
func (r *Root) Discovery() Discovery { return r.discovery }

// Version is the root's TUF version, the N of N.root.json.
func (r *Root) Version() int64 { return r.meta.Signed.Version }

// Expires is the date after which the root must have been replaced by a newer one.
func (r *Root) Expires() time.Time { return r.meta.Signed.Expires }

// Keys are the public keys and the threshold of "root", "targets", "snapshot" or
// "timestamp".
func (r *Root) Keys(role string) (keys []ed25519.PublicKey, threshold int) {
	a := rootAuthority(r.meta, role)
	return a.publicKeys(), a.threshold
}

// id names the repository that a root belongs to by its root keys and threshold.
func (r *Root) id() string {
	role := r.meta.Signed.Roles[roleRoot]
	ids := slices.Sorted(slices.Values(role.KeyIDs))
	sum := sha256.Sum256([]byte(fmt.Sprint(role.Threshold, ids)))
	return hex.EncodeToString(sum[:16])
}
