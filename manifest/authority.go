package manifest

import (
	"crypto/ed25519"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"

	"github.com/theupdateframework/go-tuf/v2/metadata"
)

// An authority is who may sign a role.
type authority struct {
	keys      map[string]ed25519.PublicKey // by id
	ids       []string                     // in the order of the file
	threshold int
}

// readAuthority reads a role and the keys of its file, both past Lint.
func readAuthority(role, keys object) authority {
	a := authority{keys: map[string]ed25519.PublicKey{}, threshold: int(role["threshold"].(int64))}
	for _, v := range role["keyids"].([]any) {
		id := v.(string)
		a.ids = append(a.ids, id)
		text := keys[id].(object)["keyval"].(object)["public"].(string)
		a.keys[id], _ = hex.DecodeString(text) // Lint left 64 hex digits
	}
	return a
}

// A delegation is one role of a targets.json: who may sign it, and for which paths.
type delegation struct {
	authority
	paths []string
}

// delegations lists the delegated roles of a targets.json in their order.
func (d *document) delegations() (names []string) {
	for _, v := range d.delegatedRoles() {
		names = append(names, v.(object)["name"].(string))
	}
	return names
}

func (d *document) delegatedRoles() []any {
	all, _ := d.signed["delegations"].(object)
	list, _ := all["roles"].([]any)
	return list
}

// delegation finds a delegated role; nil when targets.json has none.
func (d *document) delegation(name string) *delegation {
	for _, v := range d.delegatedRoles() {
		role := v.(object)
		if role["name"] != name {
			continue
		}
		found := &delegation{authority: readAuthority(role, d.signed["delegations"].(object)["keys"].(object))}
		for _, path := range role["paths"].([]any) {
			found.paths = append(found.paths, path.(string))
		}
		return found
	}
	return nil
}

// owns reports whether a path is one that the role may sign.
func (d *delegation) owns(path string) bool {
	role := metadata.DelegatedRole{Paths: d.paths}
	ok, err := role.IsDelegatedPath(path)
	return err == nil && ok
}

// places words the paths that the role may sign.
func (d *delegation) places() string { return strings.Join(d.paths, " ") }

func (a authority) publicKeys() []ed25519.PublicKey {
	var list []ed25519.PublicKey
	for _, id := range a.ids {
		list = append(list, a.keys[id])
	}
	return list
}

// accepts reports whether enough of the keys have signed d: as many different ones as the
// threshold says, and Lint leaves no threshold below 1. This is the one place that decides
// about signatures; TestGoTUFAcceptsWhatWeAccept sets go-tuf's VerifyDelegate beside it.
func (a authority) accepts(d *document) bool {
	return a.threshold >= 1 && len(a.signers(d)) >= a.threshold
}

// signers lists the authority's key ids whose signature under d is good, each once.
func (a authority) signers(d *document) []string {
	var good []string
	for _, sig := range d.signatures {
		if key, ok := a.keys[sig.KeyID]; ok && !slices.Contains(good, sig.KeyID) && d.signedBy(sig, key) {
			good = append(good, sig.KeyID)
		}
	}
	return good
}

// refuse words the refusal of a file that too few of its keys signed.
func (a authority) refuse(file string, d *document, remedy string) error {
	has := []string{}
	for _, sig := range d.signatures {
		has = append(has, sig.KeyID)
	}
	return refuse(ErrSignature, "%s: signed by %d of %d required keys: needs %s, has %s; %s",
		file, len(a.signers(d)), a.threshold, shortIDs(a.ids), shortIDs(has), remedy)
}

// signOn says what to do about a file that is not published yet and that too few of its
// keys signed: some are still to come, or it was changed, or it is a stranger's.
func (a authority) signOn(d *document) string {
	good, named := len(a.signers(d)), 0
	for _, sig := range d.signatures {
		if slices.Contains(a.ids, sig.KeyID) {
			named++
		}
	}
	switch {
	case named > good:
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
