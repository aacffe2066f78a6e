package manifest

import (
	"crypto/ed25519"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"

	"github.com/theupdateframework/go-tuf/v2/metadata"
)

// An authority lists the keys that may sign a role, and how many of them must.
type authority struct {
	keys      map[string]ed25519.PublicKey // by key ID
	ids       []string                     // in the order of the file
	threshold int
}

// readAuthority reads a role and the keys of its file. Both have passed Lint.
func readAuthority(role, keys object) authority {
	a := authority{keys: map[string]ed25519.PublicKey{}, threshold: int(role["threshold"].(int64))}
	a.ids = texts(role["keyids"])
	for _, id := range a.ids {
		text := keys[id].(object)["keyval"].(object)["public"].(string)
		a.keys[id], _ = hex.DecodeString(text) // Lint accepts 64 hex digits only
	}
	return a
}

// authority returns the keys that d lists for a role. When it lists none, the result accepts no
// document.
func (d *Document) authority(role string) authority {
	if d.kind == KindRoot {
		if entry, ok := d.signed["roles"].(object)[role].(object); ok {
			return readAuthority(entry, d.signed["keys"].(object))
		}
	} else if found := d.delegation(role); found != nil {
		return found.authority
	}
	return authority{}
}

// A delegation is one role of a targets.json: the keys that may sign it, and its paths.
type delegation struct {
	authority
	name        string
	paths       []string
	terminating bool
}

// readDelegations reads the delegated roles of a targets.json, in their order.
func readDelegations(signed object) (list []delegation) {
	all, ok := signed["delegations"].(object)
	if !ok {
		return nil
	}
	for _, v := range all["roles"].([]any) {
		role := v.(object)
		list = append(list, delegation{
			readAuthority(role, all["keys"].(object)), role["name"].(string), texts(role["paths"]), role["terminating"].(bool),
		})
	}
	return list
}

// delegation finds a delegated role by its name, nil when there is none.
func (d *Document) delegation(name string) *delegation {
	for i := range d.delegations {
		if d.delegations[i].name == name {
			return &d.delegations[i]
		}
	}
	return nil
}

// texts reads a list of text that passed Lint; a missing one is nil.
func texts(v any) (list []string) {
	values, _ := v.([]any)
	for _, text := range values {
		list = append(list, text.(string))
	}
	return list
}

// covers reports whether a path matches the patterns of the role.
func (d *delegation) covers(path string) bool {
	role := metadata.DelegatedRole{Paths: d.paths}
	ok, err := role.IsDelegatedPath(path)
	return err == nil && ok
}

func (a authority) publicKeys() []ed25519.PublicKey {
	var list []ed25519.PublicKey
	for _, id := range a.ids {
		list = append(list, a.keys[id])
	}
	return list
}

// RoleKeys lists the keys of a role of a root or a targets.json.
type RoleKeys struct {
	Name      string   `json:"name"`
	Threshold int      `json:"threshold"`
	Keys      []string `json:"keys"` // key IDs

	// Of a delegated role: the path patterns that it may sign, and whether no later role may
	// sign them too.
	Paths       []string `json:"paths,omitempty"`
	Terminating *bool    `json:"terminating,omitempty"`
}

// Roles lists the roles of a root, sorted by name, or of a targets.json, in the order of the
// file; nil for other kinds.
func (d *Document) Roles() []RoleKeys {
	var list []RoleKeys
	switch d.kind {
	case KindRoot:
		for _, name := range sorted(d.signed["roles"].(object)) {
			a := d.authority(name)
			list = append(list, RoleKeys{Name: name, Threshold: a.threshold, Keys: a.ids})
		}
	case KindTargets:
		for _, r := range d.delegations {
			list = append(list, RoleKeys{r.name, r.threshold, r.ids, r.paths, &r.terminating})
		}
	}
	return list
}

// Signatures says which signatures of a document count for its role.
type Signatures struct {
	Threshold int      `json:"threshold"`           // 0 when the keys of the role are not known
	Good      []string `json:"signed_by"`           // IDs of listed keys with a valid signature
	Bad       []string `json:"bad_signatures"`      // IDs of listed keys whose signature does not match the content
	Unlisted  []string `json:"unlisted_signatures"` // IDs of other keys; their signatures are not verified
}

// Missing is how many more of the listed keys have to sign.
func (s Signatures) Missing() int { return max(0, s.Threshold-len(s.Good)) }

// Complete reports whether enough listed keys have signed and none of them other content.
func (s Signatures) Complete() bool { return s.Threshold > 0 && s.Missing() == 0 && len(s.Bad) == 0 }

// SignaturesFor counts the signatures of d by the keys that lister, a root or a targets.json,
// lists for the role of d. With a nil lister, or one that does not list the role, the
// threshold is 0 and all signatures are unlisted.
func (d *Document) SignaturesFor(lister *Document) Signatures {
	var a authority
	if lister != nil {
		a = lister.authority(d.role)
	}
	return a.count(d)
}

// count sorts the signatures of d. This is the only place that decides about signatures.
func (a authority) count(d *Document) Signatures {
	s := Signatures{Threshold: a.threshold, Good: []string{}, Bad: []string{}, Unlisted: []string{}} // JSON has [], not null
	for _, sig := range d.signatures {
		key, listed := a.keys[sig.KeyID]
		switch {
		case !listed:
			s.Unlisted = append(s.Unlisted, sig.KeyID)
		case slices.Contains(s.Good, sig.KeyID): // Lint refuses a second signature by one key
		case d.signedBy(sig, key):
			s.Good = append(s.Good, sig.KeyID)
		default:
			s.Bad = append(s.Bad, sig.KeyID)
		}
	}
	return s
}

// signedBy reports whether a signature is valid. A key ID is the hash of the key, so one result
// holds for every role that lists the key.
func (d *Document) signedBy(sig metadata.Signature, key ed25519.PublicKey) bool {
	good, known := d.verified[sig.KeyID]
	if !known {
		good = len(key) == ed25519.PublicKeySize && ed25519.Verify(key, d.payload, sig.Signature)
		d.verified[sig.KeyID] = good
	}
	return good
}

// accepts reports whether the threshold of the role is reached: as many different keys have
// signed d. Other bad signatures change nothing, as in TUF. Lint refuses a threshold
// below 1. TestGoTUFAcceptsWhatWeAccept compares it with go-tuf's VerifyDelegate.
func (a authority) accepts(d *Document) bool {
	return a.threshold >= 1 && a.count(d).Missing() == 0
}

// refuse words the refusal of a file that too few keys of the role have signed.
func (a authority) refuse(d *Document, remedy string) error {
	has := []string{}
	for _, sig := range d.signatures {
		has = append(has, sig.KeyID)
	}
	return refuse(ErrSignature, "signed by %d of %d required keys: needs %s, has %s; %s",
		len(a.count(d).Good), a.threshold, shortIDs(a.ids), shortIDs(has), remedy)
}

// remedy says what to do about an unpublished file that too few keys have signed: it was
// changed, or other signers have not signed yet, or it belongs to another repository.
func (a authority) remedy(d *Document) string {
	switch s := a.count(d); {
	case len(s.Bad) > 0:
		return changedSince
	case len(s.Good) > 0:
		return moreSigners
	default:
		return rightRoot
	}
}

// shortIDs lists key IDs for an operator: eight digits of each, at most four.
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
