package manifest

import (
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"time"
)

// A Root is a complete root.json that its own keys have signed: the one file that a machine
// trusts from the start. No program can check that it is the right one; the person who installs
// it decides that.
type Root struct {
	doc       *Document
	discovery Discovery
}

// ParseRoot reads a root.json: lint, then its signatures by its own keys and threshold. Expiry
// is checked by Verify, which may find a newer root.
func ParseRoot(data []byte) (*Root, error) {
	doc, err := open(KindRoot, data)
	if err != nil {
		return nil, inFile("root.json", err)
	}
	return (&Root{doc: doc}).checkSelf("it must be signed by its own root keys; get root.json from the signer again")
}

// checkSelf checks the root's signatures by its own keys, and reads its discovery field.
func (r *Root) checkSelf(remedy string) (*Root, error) {
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

// Next reads the root that follows r: one version later, signed by r's root keys and by its own,
// and of the same repository. Anything else wraps ErrSignature, ErrRollback, ErrRepository or
// ErrMalformed. Expiry is not checked.
func (r *Root) Next(data []byte) (*Root, error) {
	name := FileName(roleRoot, r.Version()+1)
	doc, err := open(KindRoot, data)
	if err != nil {
		return nil, inFile(name, err)
	}
	if old := r.authority(roleRoot); !old.accepts(doc) {
		remedy := "is this the right repository for your root.json?"
		if len(old.count(doc).Good) > 0 {
			remedy = moreSigners
		}
		return nil, old.refuse(name, doc, fmt.Sprintf("it must be signed by the keys of root version %d; %s", r.Version(), remedy))
	}
	if doc.Version() != r.Version()+1 {
		return nil, refuse(ErrRollback, "%s: says version %d where %d must follow; ask another source", name, doc.Version(), r.Version()+1)
	}
	if err := r.sameRepository(name, doc); err != nil {
		return nil, err
	}
	return (&Root{doc: doc}).checkSelf("it must also be signed by its own root keys; the signer must add the missing signatures")
}

// CheckSigned checks that targets, a snapshot or a timestamp is signed by the keys that r lists
// for it, and of the same repository. The error wraps ErrSignature, ErrRepository or
// ErrMalformed. Expiry is not checked.
func (r *Root) CheckSigned(kind Kind, data []byte) error {
	if kind != KindTargets && kind != KindSnapshot && kind != KindTimestamp {
		return malformed("%s metadata: not a role of the root's", kind)
	}
	name := string(kind) + ".json"
	doc, err := open(kind, data)
	if err != nil {
		return inFile(name, err)
	}
	if a := r.authority(string(kind)); !a.accepts(doc) {
		remedy := fmt.Sprintf("root version %d lists others", r.Version())
		if len(a.count(doc).Good) > 0 {
			remedy = moreSigners
		}
		return a.refuse(name, doc, remedy)
	}
	return r.sameRepository(name, doc)
}

// authority returns the keys that may sign one of the root's four roles.
func (r *Root) authority(role string) authority {
	a, _ := r.doc.authority(role)
	return a
}

// Discovery is where the repository is found.
func (r *Root) Discovery() Discovery { return r.discovery }

// Version is the root's TUF version, the N of N.root.json.
func (r *Root) Version() int64 { return r.doc.Version() }

// Expires is the date from which a newer root must have replaced this one.
func (r *Root) Expires() time.Time { return r.doc.Expires() }

// Keys returns the public keys and the threshold of "root", "targets", "snapshot" or
// "timestamp".
func (r *Root) Keys(role string) (keys []ed25519.PublicKey, threshold int) {
	a := r.authority(role)
	return a.publicKeys(), a.threshold
}

// stateID names the folder in which a machine keeps the state of the repository. It is a hash of
// the root keys, the threshold and the repository ID.
func (r *Root) stateID() string {
	a := r.authority(roleRoot)
	ids := slices.Sorted(slices.Values(a.ids))
	sum := sha256.Sum256([]byte(fmt.Sprint(a.threshold, ids) + r.Repository()))
	return hex.EncodeToString(sum[:16])
}
