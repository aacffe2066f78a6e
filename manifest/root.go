package manifest

import (
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"time"
)

// A Root is a root.json that is whole and signed by itself: the one file that a
// machine trusts from the start. Whether it is the right one, nobody can say but the
// person who put it there.
type Root struct {
	doc       *document
	discovery Discovery
}

// ParseRoot reads a root.json: lint, then its signatures by its own keys and
// threshold. Expiry is judged by Verify, which may find a newer one.
func ParseRoot(data []byte) (*Root, error) {
	doc, err := open(KindRoot, data)
	if err != nil {
		return nil, inFile("root.json", err)
	}
	return (&Root{doc: doc}).complete("it must be signed by its own root keys; get root.json from the signer again")
}

// complete judges a root by itself, and reads the rest of it.
func (r *Root) complete(remedy string) (*Root, error) {
	name := FileName(roleRoot, r.Version())
	if own := r.authority(roleRoot); !own.accepts(r.doc) {
		return nil, own.refuse(name, r.doc, remedy)
	}
	var err error
	if r.discovery, err = readDiscovery(r.doc.signed[extension]); err != nil {
		return nil, inFile(name, err)
	}
	return r, nil
}

// Next reads the root that follows r: one version later, signed by r's root keys and by
// its own, and of the same repository. Anything else wraps ErrSignature, ErrRollback,
// ErrRepository or ErrMalformed.
func (r *Root) Next(data []byte) (*Root, error) {
	name := FileName(roleRoot, r.Version()+1)
	doc, err := open(KindRoot, data)
	if err != nil {
		return nil, inFile(name, err)
	}
	if old := r.authority(roleRoot); !old.accepts(doc) {
		return nil, old.refuse(name, doc,
			fmt.Sprintf("it must be signed by the keys of root version %d; is this the right repository for your root.json?", r.Version()))
	}
	if doc.version() != r.Version()+1 {
		return nil, refuse(ErrRollback, "%s: says version %d where %d must follow; ask another source", name, doc.version(), r.Version()+1)
	}
	if err := r.sameRepository(name, doc); err != nil {
		return nil, err
	}
	return (&Root{doc: doc}).complete("it must also be signed by its own root keys; the signer has to complete it")
}

// Owns reports whether targets, a snapshot or a timestamp is signed by the keys that r
// lists for it, and of its repository; if not, the error wraps ErrSignature or
// ErrRepository. Dates are not judged.
func (r *Root) Owns(kind Kind, data []byte) error {
	if kind != KindTargets && kind != KindSnapshot && kind != KindTimestamp {
		return malformed("%s metadata: not a role of the root's", kind)
	}
	doc, err := open(kind, data)
	if err != nil {
		return inFile(string(kind)+".json", err)
	}
	if a := r.authority(string(kind)); !a.accepts(doc) {
		return a.refuse(string(kind)+".json", doc, fmt.Sprintf("root version %d lists others", r.Version()))
	}
	return r.sameRepository(string(kind)+".json", doc)
}

// authority is who may sign one of the root's four roles.
func (r *Root) authority(role string) authority {
	roles := r.doc.signed["roles"].(object)
	entry, ok := roles[role].(object)
	if !ok {
		return authority{}
	}
	return readAuthority(entry, r.doc.signed["keys"].(object))
}

// Discovery says where the repository may be found.
func (r *Root) Discovery() Discovery { return r.discovery }

// Version is the root's TUF version, the N of N.root.json.
func (r *Root) Version() int64 { return r.doc.version() }

// Expires is the date after which the root must have been replaced by a newer one.
func (r *Root) Expires() time.Time { return r.doc.expires() }

// Keys are the public keys and the threshold of "root", "targets", "snapshot" or
// "timestamp".
func (r *Root) Keys(role string) (keys []ed25519.PublicKey, threshold int) {
	a := r.authority(role)
	return a.publicKeys(), a.threshold
}

// id names the folder in which a machine remembers the repository: by its root keys and
// threshold, and by its ID where it has one.
func (r *Root) id() string {
	a := r.authority(roleRoot)
	ids := slices.Sorted(slices.Values(a.ids))
	sum := sha256.Sum256([]byte(fmt.Sprint(a.threshold, ids) + r.Repository()))
	return hex.EncodeToString(sum[:16])
}
