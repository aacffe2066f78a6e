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
	targets, err := checkTargets(rootJSON, targetsJSON, now)
	if err != nil {
		return Release{}, err
	}
	role, claim, err := readRole(roleJSON)
	if err != nil {
		return Release{}, err
	}
	name, err := RoleName(claim.Channel, claim.Arch)
	if err != nil {
		return Release{}, inFile("release manifest", err)
	}
	id := versioned(name, role.Signed.Version)
	delegation, owners := delegatedAuthority(targets, name)
	if delegation == nil {
		return Release{}, refuse(ErrPath, "%s: this repository delegates no channel %q for %q; %s", id, claim.Channel, claim.Arch, rightRoot)
	}
	if targets.VerifyDelegate(name, role) != nil {
		return Release{}, refuseSignatures(id, owners, role, signOn(owners, role))
	}
	if err := checkDate(now, id, role.Signed.Expires, releaseAgain); err != nil {
		return Release{}, err
	}
	return delegated(id, delegation, role, claim.Channel, claim.Arch)
}

// checkTargets judges a repository's targets.json by its root.json.
func checkTargets(rootJSON, targetsJSON []byte, now time.Time) (*metadata.Metadata[metadata.TargetsType], error) {
	root, err := ParseRoot(rootJSON)
	if err != nil {
		return nil, err
	}
	if err := checkDate(now, versioned(roleRoot, root.Version()), root.Expires(), newRoot); err != nil {
		return nil, err
	}
	targets, err := Parse[metadata.TargetsType](KindTargets, targetsJSON)
	if err != nil {
		return nil, inFile("targets.json", err)
	}
	id := versioned(roleTargets, targets.Signed.Version)
	if root.meta.VerifyDelegate(roleTargets, targets) != nil {
		return nil, refuseSignatures(id, rootAuthority(root.meta, roleTargets), targets, rightRoot)
	}
	return targets, checkDate(now, id, targets.Signed.Expires, renewTargets)
}

// readRole reads a manifest file and, unverified, whose release it claims to be.
func readRole(data []byte) (*metadata.Metadata[metadata.TargetsType], Release, error) {
	role, err := Parse[metadata.TargetsType](KindRole, data)
	if err != nil {
		return nil, Release{}, inFile("release manifest", err)
	}
	claim, err := decodeFields(role.Signed.UnrecognizedFields[extension])
	if err != nil {
		return nil, Release{}, inFile("release manifest", err)
	}
	return role, claim, nil
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
	targets, err := checkTargets(rootJSON, targetsJSON, time.Time{})
	if err != nil {
		return Signatures{}, err
	}
	role, claim, err := readRole(roleJSON)
	if err != nil {
		return Signatures{}, err
	}
	name, err := RoleName(claim.Channel, claim.Arch)
	if err != nil {
		return Signatures{}, inFile("release manifest", err)
	}
	_, owners := delegatedAuthority(targets, name)
	return Signatures{owners.threshold, owners.ids, signedBy(owners, role)}, nil
}

// ReadDelegations lists the channels of a targets.json. It checks no signature.
func ReadDelegations(targetsJSON []byte) ([]Delegation, error) {
	targets, err := Parse[metadata.TargetsType](KindTargets, targetsJSON)
	if err != nil {
		return nil, inFile("targets.json", err)
	}
	var list []Delegation
	if targets.Signed.Delegations == nil {
		return nil, nil
	}
	for _, role := range targets.Signed.Delegations.Roles {
		if channel, arch, ok := splitRole(role.Name); ok {
			_, owners := delegatedAuthority(targets, role.Name)
			list = append(list, Delegation{channel, arch, owners.publicKeys(), owners.threshold})
		}
	}
	return list, nil
}
