package manifest

import (
	"bytes"
	"cmp"
	"context"
	"strings"
	"time"
)

// CheckRole judges one release manifest by a repository's root.json and targets.json: lint,
// signatures up to the threshold, expiry, paths and content. It is for a file that is not
// published yet: there is no snapshot and no state to compare it with. The zero time for now
// checks no expiry.
func CheckRole(rootJSON, targetsJSON, roleJSON []byte, now time.Time) (Release, error) {
	root, targets, err := checkTargets(rootJSON, targetsJSON, now)
	if err != nil {
		return Release{}, err
	}
	role, name, claim, err := readRole(roleJSON)
	if err != nil {
		return Release{}, err
	}
	id := versioned(name, role.Version())
	owners := targets.delegation(name)
	if owners == nil {
		return Release{}, refuse(ErrPath, "%s: this repository delegates no channel %q for %q; %s", id, claim.Channel, claim.Arch, rightRoot)
	}
	if err := root.checkSigned(role, owners.authority, owners.remedy(role)); err != nil {
		return Release{}, inFile(id, err)
	}
	if err := checkDate(now, "", id, role.Expires(), releaseAgain); err != nil {
		return Release{}, err
	}
	return owners.decode(id, role, claim.Channel, claim.Arch)
}

// checkTargets judges a repository's targets.json by its root.json.
func checkTargets(rootJSON, targetsJSON []byte, now time.Time) (*Root, *Document, error) {
	root, err := ParseRoot(rootJSON)
	if err != nil {
		return nil, nil, err
	}
	if err := checkDate(now, "", versioned(roleRoot, root.Version()), root.Expires(), newRoot); err != nil {
		return nil, nil, err
	}
	targets, id, err := root.openSigned(KindTargets, roleTargets, targetsJSON, root.doc.authority(roleTargets), rightRoot)
	if err != nil {
		return nil, nil, err
	}
	return root, targets, checkDate(now, "", id, targets.Expires(), renewTargets)
}

// readRole reads a release manifest and, unverified, the channel and architecture that it
// names.
func readRole(data []byte) (role *Document, name string, claim Release, err error) {
	if role, err = open(KindRole, data); err == nil {
		claim, err = role.fields()
	}
	if err == nil {
		name, err = RoleName(claim.Channel, claim.Arch)
	}
	if err != nil {
		return nil, "", Release{}, inFile("release manifest", err)
	}
	return role, name, claim, nil
}

// decode checks the paths of a role that d has accepted, and then its content.
func (d *delegation) decode(id string, role *Document, channel, arch string) (Release, error) {
	for _, path := range sorted(role.signed["targets"].(object)) {
		if !d.covers(path) {
			return Release{}, refuse(ErrPath, "%s: %.80q is outside %s, all that its keys may sign; the signer has to release again", id, path, strings.Join(d.paths, " "))
		}
	}
	r, err := role.decode(channel, arch)
	if err != nil {
		return Release{}, inFile(id, err)
	}
	return r, nil
}

// CheckRoot judges a root by r, an older root that is trusted, or the same one: a chain leads
// from r to it, each root signed by the one before and by itself, and it is not expired at now.
// f has the roots between the two. An error names the file only if it is one of those.
func (r *Root) CheckRoot(ctx context.Context, d *Document, f Fetcher, now time.Time) error {
	if d.Version() < r.Version() {
		return refuse(ErrRollback, "root version %d: older than version %d, which is trusted; name a newer root", d.Version(), r.Version())
	}
	last := r
	for last.Version()+1 < d.Version() {
		data, err := fetch(ctx, f, FileName(roleRoot, last.Version()+1), KindRoot)
		if err == nil {
			last, err = last.Next(data)
		}
		if err != nil {
			return err
		}
	}
	if last.Version() < d.Version() {
		_, err := last.NextDocument(d)
		return cmp.Or(err, d.CheckExpiry(now))
	}
	if !bytes.Equal(last.doc.payload, d.payload) {
		return refuse(ErrSignature, "another root of version %d than the trusted one; it is of another repository", d.Version())
	}
	_, err := d.Root() // it may be a copy with fewer signatures
	return cmp.Or(err, d.CheckExpiry(now))
}

// CheckHashes compares the files of a repository with the lengths and hashes that timestamp.json and
// its snapshot name. It checks no signature. A different file wraps ErrMixAndMatch, a missing one
// fs.ErrNotExist.
func CheckHashes(ctx context.Context, f Fetcher) error {
	data, err := fetch(ctx, f, "timestamp.json", KindTimestamp)
	if err != nil {
		return err
	}
	timestamp, err := open(KindTimestamp, data)
	if err != nil {
		return inFile("timestamp.json", err)
	}
	name, data, err := timestamp.fetchListed(ctx, f, "snapshot.json", KindSnapshot)
	if err != nil {
		return err
	}
	snapshot, err := open(KindSnapshot, data)
	if err != nil {
		return inFile(name, err)
	}
	for _, listed := range sorted(snapshot.meta()) {
		if _, _, err := snapshot.fetchListed(ctx, f, listed, KindRole); err != nil {
			return err
		}
	}
	return nil
}

// fetchListed fetches a file of the meta map and compares it with its entry.
func (d *Document) fetchListed(ctx context.Context, f Fetcher, listed string, kind Kind) (name string, data []byte, err error) {
	meta := d.metaFile(listed)
	name = FileName(strings.TrimSuffix(listed, ".json"), meta.Version)
	if data, err = fetch(ctx, f, name, kind); err != nil {
		return name, nil, err
	}
	if err := meta.VerifyLengthHashes(data); err != nil {
		return name, nil, refuse(ErrMixAndMatch, "%s: %v; get the file from the signer or the publisher again", name, err)
	}
	return name, data, nil
}

// ReadDelegations lists the channels of a targets.json, and the role config if it has one. It checks no signature.
func ReadDelegations(targetsJSON []byte) ([]Delegation, error) {
	targets, err := open(KindTargets, targetsJSON)
	if err != nil {
		return nil, inFile("targets.json", err)
	}
	var list []Delegation
	for _, d := range targets.delegations {
		channel, arch, ok := SplitRole(d.name)
		if d.name == ConfigRole {
			channel, arch, ok = ConfigRole, "", true
		}
		if ok {
			list = append(list, Delegation{channel, arch, d.publicKeys(), d.threshold})
		}
	}
	return list, nil
}
