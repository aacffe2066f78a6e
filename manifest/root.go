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
type Root struct{ doc *Document }

// ParseRoot reads a root.json: lint, then its signatures by its own keys and threshold. Expiry
// is checked by Verify, which may find a newer root.
func ParseRoot(data []byte) (*Root, error) {
	doc, err := open(KindRoot, data)
	if err != nil {
		return nil, inFile("root.json", err)
	}
	root, err := doc.Root()
	return root, inFile(FileName(roleRoot, doc.Version()), err)
}

// Root is ParseRoot for a document. Its errors do not name the file.
func (d *Document) Root() (*Root, error) {
	return d.signedByItself("it must be signed by its own root keys; get root.json from the signer again")
}

// signedByItself returns a root that its own keys have signed.
func (d *Document) signedByItself(remedy string) (*Root, error) {
	if d.kind != KindRoot {
		return nil, malformed("%s metadata: not a root", d.kind)
	}
	if own := d.authority(roleRoot); !own.accepts(d) {
		return nil, own.refuse(d, remedy)
	}
	return &Root{d}, nil
}

// Next reads the root that follows r: one version later, signed by r's root keys and by its own,
// and of the same repository. Anything else wraps ErrSignature, ErrRollback, ErrRepository or
// ErrMalformed. Expiry is not checked.
func (r *Root) Next(data []byte) (next *Root, err error) {
	doc, err := open(KindRoot, data)
	if err == nil {
		next, err = r.NextDocument(doc)
	}
	return next, inFile(FileName(roleRoot, r.Version()+1), err)
}

// NextDocument is Next for a document. Its errors do not name the file.
func (r *Root) NextDocument(d *Document) (*Root, error) {
	if old := r.doc.authority(roleRoot); !old.accepts(d) {
		remedy := "is this the right repository for your root.json?"
		if len(old.count(d).Good) > 0 {
			remedy = moreSigners
		}
		return nil, old.refuse(d, fmt.Sprintf("it must be signed by the keys of root version %d; %s", r.Version(), remedy))
	}
	if d.Version() != r.Version()+1 {
		return nil, refuse(ErrRollback, "says version %d where %d must follow; ask another source", d.Version(), r.Version()+1)
	}
	if err := d.CheckRepository(r.doc); err != nil {
		return nil, err
	}
	return d.signedByItself("it must also be signed by its own root keys; the signer must add the missing signatures")
}

// CheckSigned checks that targets, a snapshot or a timestamp is signed by the keys that r lists
// for it, and of the same repository. The error wraps ErrSignature, ErrRepository or
// ErrMalformed. Expiry is not checked.
func (r *Root) CheckSigned(kind Kind, data []byte) error {
	doc, err := open(kind, data)
	if err == nil {
		err = r.CheckDocument(doc)
	}
	return inFile(string(kind)+".json", err)
}

// CheckDocument is CheckSigned for a document. Its errors do not name the file.
func (r *Root) CheckDocument(d *Document) error {
	if d.kind != KindTargets && d.kind != KindSnapshot && d.kind != KindTimestamp {
		return malformed("%s metadata: not a role of the root's", d.kind)
	}
	owners := r.doc.authority(string(d.kind))
	remedy := fmt.Sprintf("root version %d lists others", r.Version())
	if len(owners.count(d).Good) > 0 {
		remedy = moreSigners
	}
	return r.checkSigned(d, owners, remedy)
}

// checkSigned checks that enough of its owners have signed d, and that it is of the repository of r.
func (r *Root) checkSigned(d *Document, owners authority, remedy string) error {
	if !owners.accepts(d) {
		return owners.refuse(d, remedy)
	}
	return d.CheckRepository(r.doc)
}

// openSigned reads a file of a role and checks it as checkSigned does. id names its version in
// messages.
func (r *Root) openSigned(kind Kind, role string, data []byte, owners authority, remedy string) (d *Document, id string, err error) {
	if d, err = open(kind, data); err != nil {
		return nil, "", inFile(role+".json", err)
	}
	id = versioned(role, d.Version())
	if err := r.checkSigned(d, owners, remedy); err != nil {
		return nil, id, inFile(id, err)
	}
	return d, id, nil
}

// Discovery is where the repository is found.
func (r *Root) Discovery() Discovery { return r.doc.Discovery() }

// Version is the root's TUF version, the N of N.root.json.
func (r *Root) Version() int64 { return r.doc.Version() }

// Bytes returns the file. It must not be changed.
func (r *Root) Bytes() []byte { return r.doc.data }

// Expires is the date from which a newer root must have replaced this one.
func (r *Root) Expires() time.Time { return r.doc.Expires() }

// Keys returns the public keys and the threshold of "root", "targets", "snapshot" or
// "timestamp".
func (r *Root) Keys(role string) (keys []ed25519.PublicKey, threshold int) {
	a := r.doc.authority(role)
	return a.publicKeys(), a.threshold
}

// stateID names the folder in which a machine keeps the state of the repository. It is a hash of
// the root keys, the threshold and the repository ID.
func (r *Root) stateID() string {
	a := r.doc.authority(roleRoot)
	ids := slices.Sorted(slices.Values(a.ids))
	sum := sha256.Sum256([]byte(fmt.Sprint(a.threshold, ids) + r.Repository()))
	return hex.EncodeToString(sum[:16])
}
