package manifest

import (
	"context"

	"github.com/theupdateframework/go-tuf/v2/metadata"
)

// updateTimestamp accepts the timestamp of the state, then the one of the source
// (specification, section 5.4).
func (w *workflow) updateTimestamp(ctx context.Context) error {
	const name = "timestamp.json"
	kept, err := w.state.read(name, KindTimestamp)
	if err == nil {
		err = w.acceptTimestamp(kept)
	}
	w.first = absent(err)
	w.noteUnusable(name, err)
	data, err := fetch(ctx, w.source, name, KindTimestamp)
	if absent(err) {
		return inFile(name, refuse(err, "not there: the repository has no release yet; run phase-publish add, or %s", askAnother))
	}
	if err != nil {
		return err
	}
	if err := w.acceptTimestamp(data); err != nil {
		return err
	}
	w.keep(name, w.timestamp.data)
	return w.checkExpiry(versioned(roleTimestamp, w.timestamp.Version()), w.timestamp.Expires(), askNewer)
}

// acceptTimestamp checks a timestamp against the root and against the one accepted before. Of
// two with the same version the first stays. An expired timestamp is accepted here, because its
// version is a floor; its expiry is checked afterwards.
func (w *workflow) acceptTimestamp(data []byte) error {
	next, id, err := w.root.openSigned(KindTimestamp, roleTimestamp, data, w.root.doc.authority(roleTimestamp), rightRoot)
	if err != nil {
		return err
	}
	if old := w.timestamp; old != nil {
		if next.Version() < old.Version() {
			return refuse(ErrRollback, "%s: older than version %d, which was seen before; %s", id, old.Version(), askAnother)
		}
		if is, was := next.metaFile("snapshot.json").Version, old.metaFile("snapshot.json").Version; is < was {
			return w.olderSnapshot(id, is, was)
		}
	}
	w.time.advanceByTimestamp(next.SignedAt(), id)
	if w.timestamp == nil || next.Version() > w.timestamp.Version() {
		w.timestamp = next
	}
	return nil
}

func (w *workflow) olderSnapshot(id string, is, was int64) error {
	return refuse(ErrRollback, "%s: names snapshot version %d, older than %d, which was seen before; %s", id, is, was, askAnother)
}

// updateSnapshot accepts the snapshot of the state, also an expired or an old one, because its
// versions are floors. If the timestamp names another one, it then accepts that one from the
// source (specification, section 5.5).
func (w *workflow) updateSnapshot(ctx context.Context) error {
	meta := w.timestamp.metaFile("snapshot.json")
	name := FileName(roleSnapshot, meta.Version)
	data, err := w.state.read("snapshot.json", KindSnapshot)
	if err == nil {
		err = w.acceptSnapshot("snapshot.json", data)
	}
	w.noteUnusable("snapshot.json", err)
	if w.snapshot != nil && meta.Version < w.snapshot.Version() {
		return w.olderSnapshot(versioned(roleTimestamp, w.timestamp.Version()), meta.Version, w.snapshot.Version())
	}
	if w.snapshot == nil || meta.VerifyLengthHashes(data) != nil {
		if data, err = w.fetchNamed(ctx, name, KindSnapshot, meta, "timestamp.json"); err != nil {
			return err
		}
		if err := w.acceptSnapshot(name, data); err != nil {
			return err
		}
	}
	if is := w.snapshot.Version(); is != meta.Version {
		return refuse(ErrMixAndMatch, "%s: says version %d inside; %s", name, is, askAnother)
	}
	w.keep("snapshot.json", w.snapshot.data)
	return w.checkExpiry(versioned(roleSnapshot, meta.Version), w.snapshot.Expires(), renewSnapshot)
}

// acceptSnapshot checks a snapshot against the root and against the one accepted before.
func (w *workflow) acceptSnapshot(name string, data []byte) error {
	next, err := open(KindSnapshot, data)
	if err == nil {
		err = w.root.checkSigned(next, w.root.doc.authority(roleSnapshot), rightRoot)
	}
	if err != nil {
		return inFile(name, err)
	}
	if w.snapshot != nil {
		for _, file := range sorted(w.snapshot.meta()) {
			is, was := next.metaFile(file), w.snapshot.metaFile(file)
			if is == nil {
				return refuse(ErrRollback, "%s: %.80q is gone, which was seen before; %s", name, file, askAnother)
			}
			if is.Version < was.Version {
				return refuse(ErrRollback, "%s: names %.80q version %d, older than %d, which was seen before; %s", name, file, is.Version, was.Version, askAnother)
			}
		}
	}
	w.snapshot = next
	return nil
}

// updateTargets accepts the top-level targets.json that the snapshot names (specification,
// section 5.6).
func (w *workflow) updateTargets(ctx context.Context) error {
	next, err := w.updateRole(ctx, roleTargets, KindTargets, w.root.doc.authority(roleTargets), renewTargets)
	w.targets = next
	return err
}

// updateRole accepts a targets file that the snapshot names and that the keys of its role have
// signed. A version below the one in the state is refused, also when the state has lost its
// snapshot, if keys that still belong to the role signed the one in the state. So a change of
// keys recovers from a version that was set too high.
func (w *workflow) updateRole(ctx context.Context, role string, kind Kind, owners authority, remedy string) (*Document, error) {
	next, id, err := w.acceptRole(ctx, role, kind, owners)
	if err != nil {
		return nil, err
	}
	return next, w.checkExpiry(id, next.Expires(), remedy)
}

// acceptRole is updateRole without the expiry check. id names the file and its version.
func (w *workflow) acceptRole(ctx context.Context, role string, kind Kind, owners authority) (next *Document, id string, err error) {
	meta := w.snapshot.metaFile(role + ".json")
	kept, err := w.state.read(role+".json", kind)
	known := err == nil && meta.VerifyLengthHashes(kept) == nil
	data := kept
	if !known {
		if data, err = w.fetchNamed(ctx, FileName(role, meta.Version), kind, meta, "the snapshot"); err != nil {
			return nil, "", err
		}
	}
	next, id, err = w.root.openSigned(kind, role, data, owners, rightRoot)
	if err != nil {
		return nil, "", err
	}
	if next.Version() != meta.Version {
		return nil, "", refuse(ErrMixAndMatch, "%s: the snapshot names version %d; %s", id, meta.Version, askAnother)
	}
	if !known {
		if err := w.checkFloor(id, role, kind, owners, next); err != nil {
			return nil, "", err
		}
	}
	w.keep(role+".json", data)
	return next, id, nil
}

// checkFloor refuses a version below the one in the state.
func (w *workflow) checkFloor(id, role string, kind Kind, owners authority, next *Document) error {
	data, err := w.state.read(role+".json", kind)
	var kept *Document
	if err == nil {
		kept, err = open(kind, data)
	}
	if err == nil {
		err = inFile(versioned(role, kept.Version()), w.root.checkSigned(kept, owners, "they were replaced"))
	}
	if err != nil {
		w.noteUnusable(role+".json", err)
		return nil
	}
	if kind != KindConfig { // whose keys can sign no release: their date moves no machine's time
		w.time.advanceByRelease(kept.SignedAt(), "the remembered "+versioned(role, kept.Version()))
	}
	if next.Version() < kept.Version() {
		return refuse(ErrRollback, "%s: older than version %d, which was seen before; %s", id, kept.Version(), askAnother)
	}
	return nil
}

// fetchNamed fetches a file and compares it with the entry that names it.
func (w *workflow) fetchNamed(ctx context.Context, name string, kind Kind, meta *metadata.MetaFiles, by string) ([]byte, error) {
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
