package manifest

import (
	"time"

	"github.com/theupdateframework/go-tuf/v2/metadata"
)

// CheckRole judges one release manifest against a repository's root.json and
// targets.json: lint, signatures up to the threshold, dates, paths and meaning. It is
// for a file that is not published yet; there is no snapshot and no state to compare
// it with.
func CheckRole(rootJSON, targetsJSON, roleJSON []byte, now time.Time) (Release, error) {
	root, targets, err := checkTargets(rootJSON, targetsJSON, now)
	if err != nil {
		return Release{}, err
	}
	role, name, claim, err := readRole(roleJSON)
	if err != nil {
		return Release{}, err
	}
	id := versioned(name, role.version())
	owners := targets.delegation(name)
	if owners == nil {
		return Release{}, refuse(ErrPath, "%s: this repository delegates no channel %q for %q; %s", id, claim.Channel, claim.Arch, rightRoot)
	}
	if !owners.accepts(role) {
		return Release{}, owners.refuse(id, role, owners.signOn(role))
	}
	if err := root.sameRepository(id, role); err != nil {
		return Release{}, err
	}
	if err := checkDate(now, "", id, role.expires(), releaseAgain); err != nil {
		return Release{}, err
	}
	return owners.read(id, role, claim.Channel, claim.Arch)
}

// checkTargets judges a repository's targets.json by its root.json.
func checkTargets(rootJSON, targetsJSON []byte, now time.Time) (*Root, *document, error) {
	root, err := ParseRoot(rootJSON)
	if err != nil {
		return nil, nil, err
	}
	if err := checkDate(now, "", versioned(roleRoot, root.Version()), root.Expires(), newRoot); err != nil {
		return nil, nil, err
	}
	targets, err := open(KindTargets, targetsJSON)
	if err != nil {
		return nil, nil, inFile("targets.json", err)
	}
	id := versioned(roleTargets, targets.version())
	if a := root.authority(roleTargets); !a.accepts(targets) {
		return nil, nil, a.refuse(id, targets, rightRoot)
	}
	if err := root.sameRepository(id, targets); err != nil {
		return nil, nil, err
	}
	return root, targets, checkDate(now, "", id, targets.expires(), renewTargets)
}

// readRole reads a manifest file and, unverified, whose release it claims to be.
func readRole(data []byte) (role *document, name string, claim Release, err error) {
	if role, err = open(KindRole, data); err == nil {
		claim, err = decodeFields(role.signed[extension])
	}
	if err == nil {
		name, err = RoleName(claim.Channel, claim.Arch)
	}
	if err != nil {
		return nil, "", Release{}, inFile("release manifest", err)
	}
	return role, name, claim, nil
}

// read checks the paths of a role that d has accepted, and then what it says.
func (d *delegation) read(id string, role *document, channel, arch string) (Release, error) {
	for _, path := range sorted(role.signed["targets"].(object)) {
		if !d.owns(path) {
			return Release{}, refuse(ErrPath, "%s: %.80q is outside %s, all that its keys may sign; the signer has to release again", id, path, d.places())
		}
	}
	m, err := metadata.Targets().FromBytes(role.data)
	if err != nil {
		return Release{}, inFile(id, malformed("%v", err))
	}
	r, err := Decode(m, channel, arch)
	if err != nil {
		return Release{}, inFile(id, err)
	}
	return r, nil
}

// Signatures is who has signed a release manifest and who may.
type Signatures struct {
	Threshold int
	Owners    []string // key ids that the delegation names
	Good      []string // those of Owners whose signature is good
}

// RoleSignatures counts the signatures of a manifest that may still need more of
// them. The root and the targets are judged as CheckRole does, dates excepted.
func RoleSignatures(rootJSON, targetsJSON, roleJSON []byte) (Signatures, error) {
	_, targets, err := checkTargets(rootJSON, targetsJSON, time.Time{})
	if err != nil {
		return Signatures{}, err
	}
	role, name, _, err := readRole(roleJSON)
	if err != nil {
		return Signatures{}, err
	}
	owners := targets.delegation(name)
	if owners == nil {
		return Signatures{}, nil
	}
	return Signatures{owners.threshold, owners.ids, owners.signers(role)}, nil
}

// ReadDelegations lists the channels of a targets.json. It checks no signature.
func ReadDelegations(targetsJSON []byte) ([]Delegation, error) {
	targets, err := open(KindTargets, targetsJSON)
	if err != nil {
		return nil, inFile("targets.json", err)
	}
	var list []Delegation
	for _, name := range targets.delegations() {
		if channel, arch, ok := splitRole(name); ok {
			owners := targets.delegation(name)
			list = append(list, Delegation{channel, arch, owners.publicKeys(), owners.threshold})
		}
	}
	return list, nil
}
