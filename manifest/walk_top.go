package manifest

import (
	"context"

	"github.com/theupdateframework/go-tuf/v2/metadata"
)

// loadTimestamp loads the remembered timestamp, then the source's.
func (w *walk) loadTimestamp(ctx context.Context) error {
	const name = "timestamp.json"
	kept, err := w.memory.read(name, KindTimestamp)
	if err == nil {
		err = w.updateTimestamp(kept)
	}
	w.first = absent(err)
	w.passOver(name, err)
	data, err := fetch(ctx, w.source, name, KindTimestamp)
	if absent(err) {
		return inFile(name, refuse(err, "not there: the repository has no release yet; run phase-publish add, or %s", askAnother))
	}
	if err != nil {
		return err
	}
	if err := w.updateTimestamp(data); err != nil {
		return err
	}
	w.remember(name, w.timestamp.data)
	return w.date(versioned(roleTimestamp, w.timestamp.version()), w.timestamp.expires(), askNewer)
}

// updateTimestamp judges a timestamp against the root and the one loaded before; of two
// with the same version the first stays. An expired one is loaded too: its version is a
// floor, and its date is judged afterwards.
func (w *walk) updateTimestamp(data []byte) error {
	next, err := open(KindTimestamp, data)
	if err != nil {
		return inFile("timestamp.json", err)
	}
	id := versioned(roleTimestamp, next.version())
	if a := w.root.authority(roleTimestamp); !a.accepts(next) {
		return a.refuse(id, next, rightRoot)
	}
	if err := w.root.sameRepository(id, next); err != nil {
		return err
	}
	if old := w.timestamp; old != nil {
		if next.version() < old.version() {
			return refuse(ErrRollback, "%s: older than version %d, which was seen before; %s", id, old.version(), askAnother)
		}
		if is, was := next.file("snapshot.json").Version, old.file("snapshot.json").Version; is < was {
			return w.olderSnapshot(id, is, was)
		}
	}
	w.raiseByTimestamp(next.signedAt(), id)
	if w.timestamp == nil || next.version() > w.timestamp.version() {
		w.timestamp = next
	}
	return nil
}

func (w *walk) olderSnapshot(id string, is, was int64) error {
	return refuse(ErrRollback, "%s: names snapshot version %d, older than %d, which was seen before; %s", id, is, was, askAnother)
}

// loadSnapshot loads the remembered snapshot for what it says of versions, even one that is
// expired or no longer the newest, and, unless it is the one that the timestamp names, the
// source's.
func (w *walk) loadSnapshot(ctx context.Context) error {
	meta := w.timestamp.file("snapshot.json")
	name := FileName(roleSnapshot, meta.Version)
	data, err := w.memory.read("snapshot.json", KindSnapshot)
	if err == nil {
		err = w.updateSnapshot("snapshot.json", data)
	}
	w.passOver("snapshot.json", err)
	if w.snapshot != nil && meta.Version < w.snapshot.version() {
		return w.olderSnapshot(versioned(roleTimestamp, w.timestamp.version()), meta.Version, w.snapshot.version())
	}
	if w.snapshot == nil || meta.VerifyLengthHashes(data) != nil {
		if data, err = w.named(ctx, name, KindSnapshot, meta, "timestamp.json"); err != nil {
			return err
		}
		if err := w.updateSnapshot(name, data); err != nil {
			return err
		}
	}
	if is := w.snapshot.version(); is != meta.Version {
		return refuse(ErrMixAndMatch, "%s: says version %d inside; %s", name, is, askAnother)
	}
	w.remember("snapshot.json", w.snapshot.data)
	return w.date(versioned(roleSnapshot, meta.Version), w.snapshot.expires(), renewSnapshot)
}

// updateSnapshot judges a snapshot against the root and the one loaded before.
func (w *walk) updateSnapshot(name string, data []byte) error {
	next, err := open(KindSnapshot, data)
	if err != nil {
		return inFile(name, err)
	}
	if a := w.root.authority(roleSnapshot); !a.accepts(next) {
		return a.refuse(name, next, rightRoot)
	}
	if err := w.root.sameRepository(name, next); err != nil {
		return err
	}
	if w.snapshot != nil {
		for _, file := range sorted(w.snapshot.files()) {
			is, was := next.file(file), w.snapshot.file(file)
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

// loadTargets loads the top-level targets.json that the snapshot names.
func (w *walk) loadTargets(ctx context.Context) error {
	next, err := w.role(ctx, roleTargets, KindTargets, w.root.authority(roleTargets), renewTargets)
	w.targets = next
	return err
}

// role loads a targets file that the snapshot names and its owners signed, and remembers
// it. A version below the remembered one is refused even where the state has lost its
// snapshot, if the remembered one is by keys that still own the role: a change of keys
// recovers from a version that was set too high.
func (w *walk) role(ctx context.Context, role string, kind Kind, owners authority, remedy string) (*document, error) {
	meta := w.snapshot.file(role + ".json")
	kept, err := w.memory.read(role+".json", kind)
	known := err == nil && meta.VerifyLengthHashes(kept) == nil
	data := kept
	if !known {
		if data, err = w.named(ctx, FileName(role, meta.Version), kind, meta, "the snapshot"); err != nil {
			return nil, err
		}
	}
	next, err := open(kind, data)
	if err != nil {
		return nil, inFile(role+".json", err)
	}
	id := versioned(role, next.version())
	if !owners.accepts(next) {
		return nil, owners.refuse(id, next, rightRoot)
	}
	if err := w.root.sameRepository(id, next); err != nil {
		return nil, err
	}
	if next.version() != meta.Version {
		return nil, refuse(ErrMixAndMatch, "%s: the snapshot names version %d; %s", id, meta.Version, askAnother)
	}
	if !known {
		if err := w.floor(id, role, kind, owners, next); err != nil {
			return nil, err
		}
	}
	w.remember(role+".json", data)
	return next, w.date(id, next.expires(), remedy)
}

// floor refuses a version below the remembered one.
func (w *walk) floor(id, role string, kind Kind, owners authority, next *document) error {
	data, err := w.memory.read(role+".json", kind)
	var kept *document
	if err == nil {
		kept, err = open(kind, data)
	}
	if err == nil && !owners.accepts(kept) {
		err = owners.refuse(versioned(role, kept.version()), kept, "they were replaced")
	}
	if err == nil {
		err = w.root.sameRepository(versioned(role, kept.version()), kept)
	}
	if err != nil {
		w.passOver(role+".json", err)
		return nil
	}
	w.raiseBySigner(kept.signedAt(), "the remembered "+versioned(role, kept.version()))
	if next.version() < kept.version() {
		return refuse(ErrRollback, "%s: older than version %d, which was seen before; %s", id, kept.version(), askAnother)
	}
	return nil
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
