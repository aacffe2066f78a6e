package manifest

import (
	"crypto/ed25519"
	"fmt"
	"slices"
	"strings"

	"github.com/secure-systems-lab/go-securesystemslib/cjson"
	"github.com/theupdateframework/go-tuf/v2/metadata"
)

// An authority is who may sign a role.
type authority struct {
	keys      map[string]*metadata.Key
	ids       []string
	threshold int
}

func rootAuthority(root *metadata.Metadata[metadata.RootType], role string) authority {
	r := root.Signed.Roles[role]
	if r == nil {
		return authority{}
	}
	return authority{root.Signed.Keys, r.KeyIDs, r.Threshold}
}

// delegatedAuthority finds a delegated role; nil when targets.json has none.
func delegatedAuthority(targets *metadata.Metadata[metadata.TargetsType], role string) (*metadata.DelegatedRole, authority) {
	if targets.Signed.Delegations == nil {
		return nil, authority{}
	}
	for i := range targets.Signed.Delegations.Roles {
		if d := &targets.Signed.Delegations.Roles[i]; d.Name == role {
			return d, authority{targets.Signed.Delegations.Keys, d.KeyIDs, d.Threshold}
		}
	}
	return nil, authority{}
}

func (a authority) publicKeys() []ed25519.PublicKey {
	var list []ed25519.PublicKey
	for _, id := range a.ids {
		if key := a.keys[id]; key != nil {
			list = append(list, publicKey(key))
		}
	}
	return list
}

// signedBy lists the authority's key ids whose signature over m is good. It words
// refusals and reports; go-tuf's VerifyDelegate is what decides.
func signedBy[T metadata.Roles](a authority, m *metadata.Metadata[T]) []string {
	payload, err := cjson.EncodeCanonical(m.Signed)
	if err != nil {
		return nil
	}
	var good []string
	for _, sig := range m.Signatures {
		key := a.keys[sig.KeyID]
		if key == nil || !slices.Contains(a.ids, sig.KeyID) {
			continue
		}
		if public := publicKey(key); public != nil && ed25519.Verify(public, payload, sig.Signature) {
			good = append(good, sig.KeyID)
		}
	}
	return good
}

// refuseSignatures words the refusal of a file that too few of its keys signed.
func refuseSignatures[T metadata.Roles](file string, a authority, m *metadata.Metadata[T], remedy string) error {
	has := []string{}
	for _, sig := range m.Signatures {
		has = append(has, sig.KeyID)
	}
	return refuse(ErrSignature, "%s: signed by %d of %d required keys: needs %s, has %s; %s",
		file, len(signedBy(a, m)), a.threshold, shortIDs(a.ids), shortIDs(has), remedy)
}

// signOn says what to do about a file that is not published yet and that too few of its
// keys signed: some are still to come, or it was changed, or it is a stranger's.
func signOn[T metadata.Roles](a authority, m *metadata.Metadata[T]) string {
	good, stale := len(signedBy(a, m)), 0
	for _, sig := range m.Signatures {
		if slices.Contains(a.ids, sig.KeyID) {
			stale++
		}
	}
	stale -= good
	switch {
	case stale > 0:
		return changedSince
	case good > 0:
		return moreSigners
	default:
		return rightRoot
	}
}

// shortIDs is a list of key ids for a person.
func shortIDs(ids []string) string {
	const most = 4
	if len(ids) == 0 {
		return "none"
	}
	var short []string
	for i, id := range ids {
		if i == most {
			short = append(short, fmt.Sprintf("%d more", len(ids)-most))
			break
		}
		short = append(short, fmt.Sprintf("%.8s…", id))
	}
	return strings.Join(short, ", ")
}
