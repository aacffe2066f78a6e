package manifest

import (
	"context"
	"errors"
	"time"

	"github.com/theupdateframework/go-tuf/v2/metadata"
)

// timestamp loads the remembered timestamp, then the source's.
func (w *walk) timestamp(ctx context.Context) error {
	const name = "timestamp.json"
	kept, err := w.memory.read(name, KindTimestamp)
	if err == nil {
		err = w.updateTimestamp(kept)
	}
	if err != nil && !absent(err) {
		w.note("the state's %s was passed over: %v", name, err)
	}
	data, err := fetch(ctx, w.source, name, KindTimestamp)
	if absent(err) {
		return inFile(name, refuse(err, "not there: the repository has no release yet; run phase-publish add, or %s", askAnother))
	}
	if err != nil {
		return err
	}
	before := w.trusted.Timestamp
	if err := w.updateTimestamp(data); err != nil {
		return err
	}
	if w.trusted.Timestamp == before {
		data = kept // the same version again: what was verified first stays
	}
	ts := w.trusted.Timestamp.Signed
	if err := w.expired(versioned(roleTimestamp, ts.Version), ts.Expires, askNewer); err != nil {
		return err
	}
	w.remember(name, data)
	return nil
}

// updateTimestamp judges a timestamp against the root and the one loaded before; an
// expired one is loaded too, its date is judged afterwards.
func (w *walk) updateTimestamp(data []byte) error {
	const name = "timestamp.json"
	next, err := Parse[metadata.TimestampType](KindTimestamp, data)
	if err != nil {
		return inFile(name, err)
	}
	id := versioned(roleTimestamp, next.Signed.Version)
	if w.trusted.Root.VerifyDelegate(roleTimestamp, next) != nil {
		return refuseSignatures(id, rootAuthority(w.trusted.Root, roleTimestamp), next, rightRoot)
	}
	if old := w.trusted.Timestamp; old != nil {
		if next.Signed.Version < old.Signed.Version {
			return refuse(ErrRollback, "%s: older than version %d, which was seen before; %s", id, old.Signed.Version, askAnother)
		}
		was, is := old.Signed.Meta["snapshot.json"].Version, next.Signed.Meta["snapshot.json"].Version
		if is < was {
			return refuse(ErrRollback, "%s: names snapshot version %d, older than %d, which was seen before; %s", id, is, was, askAnother)
		}
	}
	w.raise(signedAt(next.Signed.UnrecognizedFields))
	root := w.trusted.Root.Signed
	if err := w.expired(versioned(roleRoot, root.Version), root.Expires, newRoot); err != nil {
		return err
	}
	_, err = w.trusted.UpdateTimestamp(data)
	var (
		expired *metadata.ErrExpiredMetadata
		equal   *metadata.ErrEqualVersionNumber
	)
	if errors.As(err, &expired) || errors.As(err, &equal) {
		return nil
	}
	return tufError(id, err)
}

// signedAt reads the signing date of a timestamp that passed Lint.
func signedAt(fields map[string]any) time.Time {
	x, _ := fields[extension].(map[string]any)
	s, _ := x["signed_at"].(string)
	t, err := time.Parse(timeLayout, s)
	if err != nil {
		return time.Time{}
	}
	return t
}

// snapshot loads the remembered snapshot for what it says of versions, and, unless it
// is the one that the timestamp names, the source's.
func (w *walk) snapshot(ctx context.Context) error {
	meta := w.trusted.Timestamp.Signed.Meta["snapshot.json"]
	kept, err := w.memory.read("snapshot.json", KindSnapshot)
	if err == nil {
		if err = w.keptSnapshot(kept); err == nil && meta.VerifyLengthHashes(kept) == nil {
			return w.finalSnapshot(kept)
		}
	}
	if err != nil && !absent(err) {
		w.note("the state's snapshot.json was passed over: %v", err)
	}
	name := FileName(roleSnapshot, meta.Version)
	data, err := w.named(ctx, name, KindSnapshot, meta, "timestamp.json")
	if err != nil {
		return err
	}
	if err := w.checkSnapshot(name, data, meta.Version); err != nil {
		return err
	}
	if _, err := w.trusted.UpdateSnapshot(data, false); err != nil {
		return tufError(name, err)
	}
	return w.finalSnapshot(data)
}

// keptSnapshot loads a remembered snapshot, even one that is expired or no longer the
// newest: the versions in it are floors.
func (w *walk) keptSnapshot(data []byte) error {
	if err := Lint(KindSnapshot, data); err != nil {
		return err
	}
	_, err := w.trusted.UpdateSnapshot(data, true)
	if w.trusted.Snapshot != nil {
		return nil
	}
	return tufError("snapshot.json", err)
}

func (w *walk) finalSnapshot(data []byte) error {
	s := w.trusted.Snapshot.Signed
	w.remember("snapshot.json", data)
	return w.expired(versioned(roleSnapshot, s.Version), s.Expires, renewSnapshot)
}

// checkSnapshot words what go-tuf would refuse in a new snapshot.
func (w *walk) checkSnapshot(name string, data []byte, version int64) error {
	next, err := Parse[metadata.SnapshotType](KindSnapshot, data)
	if err != nil {
		return inFile(name, err)
	}
	if w.trusted.Root.VerifyDelegate(roleSnapshot, next) != nil {
		return refuseSignatures(name, rootAuthority(w.trusted.Root, roleSnapshot), next, rightRoot)
	}
	if next.Signed.Version != version {
		return refuse(ErrMixAndMatch, "%s: says version %d inside; %s", name, next.Signed.Version, askAnother)
	}
	if w.trusted.Snapshot != nil {
		for file, was := range w.trusted.Snapshot.Signed.Meta {
			is, ok := next.Signed.Meta[file]
			if !ok {
				return refuse(ErrRollback, "%s: %.80q is gone, which was seen before; %s", name, file, askAnother)
			}
			if is.Version < was.Version {
				return refuse(ErrRollback, "%s: names %.80q version %d, older than %d, which was seen before; %s", name, file, is.Version, was.Version, askAnother)
			}
		}
	}
	return w.expired(versioned(roleSnapshot, version), next.Signed.Expires, renewSnapshot)
}

// targets loads the top-level targets.json that the snapshot names.
func (w *walk) targets(ctx context.Context) error {
	data, err := w.role(ctx, roleTargets, KindTargets)
	if err != nil {
		return err
	}
	if err := Lint(KindTargets, data); err != nil {
		return inFile("targets.json", err)
	}
	if _, cause := w.trusted.UpdateTargets(data); cause != nil {
		return w.refuseTargets(data, cause)
	}
	w.remember("targets.json", data)
	return nil
}

// refuseTargets words what go-tuf has refused.
func (w *walk) refuseTargets(data []byte, cause error) error {
	next, err := Parse[metadata.TargetsType](KindTargets, data)
	if err != nil {
		return inFile("targets.json", err)
	}
	id := versioned(roleTargets, next.Signed.Version)
	if w.trusted.Root.VerifyDelegate(roleTargets, next) != nil {
		return refuseSignatures(id, rootAuthority(w.trusted.Root, roleTargets), next, rightRoot)
	}
	if err := w.sameVersion(id, roleTargets, next.Signed.Version); err != nil {
		return err
	}
	if err := w.expired(id, next.Signed.Expires, renewTargets); err != nil {
		return err
	}
	return tufError(id, cause)
}

// role returns the bytes of a targets file that the snapshot names, remembered ones if
// they are the same.
func (w *walk) role(ctx context.Context, role string, kind Kind) ([]byte, error) {
	meta := w.trusted.Snapshot.Signed.Meta[role+".json"]
	if kept, err := w.memory.read(role+".json", kind); err == nil && meta.VerifyLengthHashes(kept) == nil {
		return kept, nil
	}
	return w.named(ctx, FileName(role, meta.Version), kind, meta, "the snapshot")
}

// named fetches a file and compares it with what names it.
func (w *walk) named(ctx context.Context, name string, kind Kind, meta *metadata.MetaFiles, by string) ([]byte, error) {
	data, err := fetch(ctx, w.source, name, kind)
	if absent(err) {
		return nil, refuse(err, "%s: not there, although %s names it; %s", name, by, askAnother)
	}
	if err != nil {
		return nil, err
	}
	if err := meta.VerifyLengthHashes(data); err != nil {
		return nil, refuse(ErrMixAndMatch, "%s: not the file of version %d that %s names (%v); %s", name, meta.Version, by, err, askAnother)
	}
	return data, nil
}

func (w *walk) sameVersion(id, role string, version int64) error {
	if want := w.trusted.Snapshot.Signed.Meta[role+".json"].Version; version != want {
		return refuse(ErrMixAndMatch, "%s: the snapshot names version %d; %s", id, want, askAnother)
	}
	return nil
}
