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
