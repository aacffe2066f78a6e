package signer

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/phaseboot/phaseboot/internal/atomicfile"
	"github.com/phaseboot/phaseboot/internal/file"
	"github.com/phaseboot/phaseboot/internal/refusal"
	"github.com/phaseboot/phaseboot/manifest"
	"github.com/phaseboot/phaseboot/signer/key"
)

// build makes the unsigned files.
func (p *rotation) build(s RotateSpec) error {
	if p.newRoot {
		root, err := newRoot(p.root)
		if err != nil {
			return err
		}
		p.docs = append(p.docs, root)
	}
	if p.newTargets {
		targets, err := newTargets(p.old.targets.Version()+1, s.Now.Add(s.TargetsLifetime), p.root.Repository, p.releases)
		if err != nil {
			return err
		}
		p.docs = append(p.docs, targets)
	}
	return nil
}

// next is the root after the rotation: the new one, or the old one if there is no new root.
func (p *rotation) next() *document {
	if p.newRoot {
		return p.docs[0]
	}
	return p.old.root
}

// signAll signs each file with the keys that may sign it. A key that may sign none is refused.
func (p *rotation) signAll(ctx context.Context, keys []key.Key) error {
	for _, k := range keys {
		used := false
		for _, d := range p.docs {
			listed := keysIn(p.next(), d.Role())
			if d.Kind() == manifest.KindRoot {
				listed = append(slices.Clone(listed), keysIn(p.old.root, d.Role())...)
			}
			if !slices.Contains(listed, k.ID()) {
				continue
			}
			if err := d.sign(ctx, k); err != nil {
				return err
			}
			used = true
		}
		if !used {
			return refusal.New(manifest.ErrSignature, "key %s (%.8s…): is not a root key, neither of the old root nor of the new one", k.Name(), k.ID())
		}
	}
	return nil
}

// withPrivate returns the keys that can sign.
func withPrivate(keys []key.Key) []key.Key {
	return slices.DeleteFunc(slices.Clone(keys), func(k key.Key) bool { return k.Signer() == nil })
}

// write writes the files, root.json last.
func (p *rotation) write(s RotateSpec) (RotateResult, error) {
	out := s.Out
	if out == "" {
		out = s.Repo
	}
	r := RotateResult{Dir: out, Repo: s.Repo, Complete: true}
	repo := &repository{dir: s.Repo, root: p.next(), targets: p.old.targets}
	for _, d := range p.docs {
		sum := summarize(d, repo)
		if err := sinceLast(&sum, d, s.Repo); err != nil {
			return r, err
		}
		sum.File = filepath.Join(out, d.path)
		r.Complete = r.Complete && sum.Complete()
		r.Files = append(r.Files, sum)
	}
	if s.Out == "" && !r.Complete {
		return r, refusal.New(manifest.ErrSignature, "repository %s: other root keys have to sign first (%s); name a folder for the new files with --out, and give it to the other signers",
			s.Repo, r.missing())
	}
	for _, f := range r.Files {
		if _, err := os.Lstat(f.File); err == nil {
			return r, fmt.Errorf("%s: %w: the folder holds another rotation; choose another --out", f.File, fs.ErrExist)
		}
	}
	if err := os.MkdirAll(out, 0o755); err != nil {
		return r, fmt.Errorf("folder %s: %w", out, file.Advise(err))
	}
	for _, f := range p.files(s.Out != "") {
		write := atomicfile.Write
		if f.fresh {
			write = atomicfile.Create
		}
		if err := write(filepath.Join(out, f.name), 0o644, f.data); err != nil {
			return r, fmt.Errorf("%s: %w", filepath.Join(out, f.name), err)
		}
	}
	return r, nil
}

// sameFolder reports whether two paths name the same folder.
func sameFolder(a, b string) bool {
	x, err := os.Stat(a)
	if err != nil {
		return false
	}
	y, err := os.Stat(b)
	return err == nil && os.SameFile(x, y)
}

// A namedFile is a file to write.
type namedFile struct {
	name  string
	data  []byte
	fresh bool // must not exist yet
}

// files lists the new files and root.json. With old, for a folder that other signers get, the files
// before them come first.
func (p *rotation) files(old bool) (list []namedFile) {
	put := func(d *document, name string, fresh bool) {
		list = append(list, namedFile{name, d.Data(), fresh})
	}
	if old {
		put(p.old.root, manifest.FileName("root", p.old.root.Version()), false)
		put(p.old.targets, manifest.FileName("targets", p.old.targets.Version()), false)
	}
	for _, d := range p.docs {
		put(d, d.path, true)
	}
	if old || p.newRoot {
		put(p.next(), RootName, false)
	}
	return list
}

// missing lists how many signatures each file still needs.
func (r RotateResult) missing() string {
	var list []string
	for _, f := range r.Files {
		if n := f.Missing(); n > 0 {
			list = append(list, fmt.Sprintf("%s: %d more", filepath.Base(f.File), n))
		}
		if f.Before != nil && f.Before.missing > 0 {
			list = append(list, fmt.Sprintf("%s: %d more of root version %d", filepath.Base(f.File), f.Before.missing, f.Version-1))
		}
	}
	return strings.Join(list, ", ")
}

// Words describes the new files and the next steps for an operator.
func (r RotateResult) Words(now time.Time) string {
	var b strings.Builder
	var files []string
	for _, f := range r.Files {
		fmt.Fprintf(&b, "%s: %s", f.File, f.Words(now))
		files = append(files, f.File)
	}
	switch {
	case !r.Complete:
		fmt.Fprintf(&b, "Not valid yet (%s). On the machine of each key that has to sign:\n  phase-sign add --key KEY %s\nThen, on this one:\n", r.missing(), strings.Join(files, " "))
		fallthrough
	case r.Dir != r.Repo:
		if r.Complete {
			b.WriteString("Valid. To put it into the repository:\n")
		}
		fmt.Fprintf(&b, "  phase-sign verify --root %s --repo %s %s\n  cp %s/*.json %s/\n",
			filepath.Join(r.Repo, RootName), r.Dir, strings.Join(files, " "), r.Dir, r.Repo)
	}
	b.WriteString("The publisher reads it from its copy of the repository; after a change of the online or IPNS key, start it again with the new key.\n")
	return b.String()
}
