package signer

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/phaseboot/phaseboot/internal/atomicfile"
	"github.com/phaseboot/phaseboot/manifest"
)

// build makes the unsigned files.
func (p *rotation) build(s RotateSpec) error {
	if p.newRoot {
		root, err := manifest.NewRoot(p.root)
		if err != nil {
			return invalid("root: %v", err)
		}
		if err := p.add(manifest.KindRoot, root, p.root.Version); err != nil {
			return err
		}
	}
	if !p.newTargets {
		return nil
	}
	targets, err := manifest.NewTargets(p.old.targets.version+1, s.Now.Add(s.TargetsLifetime), p.releases...)
	if err != nil {
		return invalid("targets: %v", err)
	}
	manifest.SetRepository(targets, p.root.Repository)
	return p.add(manifest.KindTargets, targets, p.old.targets.version+1)
}

// add takes a built file through its bytes, as everybody else will read it.
func (p *rotation) add(kind manifest.Kind, m any, version int64) error {
	var data []byte
	var err error
	switch m := m.(type) {
	case *metadata.Metadata[metadata.RootType]:
		data, err = manifest.Bytes(kind, m)
	case *metadata.Metadata[metadata.TargetsType]:
		data, err = manifest.Bytes(kind, m)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", kind, err)
	}
	d, err := parseDocument(data)
	if err != nil {
		return fmt.Errorf("%s: %w", kind, err)
	}
	d.path = manifest.FileName(string(kind), version)
	p.docs = append(p.docs, d)
	return nil
}

// next is the root that will be in force.
func (p *rotation) next() *document {
	if p.newRoot {
		return p.docs[0]
	}
	return p.old.root
}

// signAll signs each file with the keys that may, and refuses a key that may sign none.
func (p *rotation) signAll(keys []Key) error {
	for _, k := range keys {
		id, err := k.ID()
		if err != nil {
			return err
		}
		used := false
		for _, d := range p.docs {
			listed, _ := listed(p.next().root, d.role)
			if d.kind == manifest.KindRoot {
				addKeysOf(p.old.root, listed)
			}
			if _, ok := listed[id]; !ok {
				continue
			}
			if _, err := d.sign(k.signer); err != nil {
				return fmt.Errorf("key %s: %w", k.name, err)
			}
			used = true
		}
		if !used {
			return because(manifest.ErrSignature, "key %s (%.8s…): is no root key, neither before nor after", k.name, id)
		}
	}
	return nil
}

func withPrivate(keys []Key) []Key {
	return slices.DeleteFunc(slices.Clone(keys), func(k Key) bool { return k.signer == nil })
}

// write puts the files where they belong, root.json last.
func (p *rotation) write(s RotateSpec) (RotateResult, error) {
	out := s.Out
	if out == "" {
		out = s.Repo
	}
	r := RotateResult{Dir: out, Repo: s.Repo, Complete: true}
	t := &trust{dir: s.Repo, root: p.next(), targets: p.old.targets}
	for _, d := range p.docs {
		sum := summarize(d, t)
		if err := sinceLast(&sum, d, s.Repo); err != nil {
			return r, err
		}
		sum.File = filepath.Join(out, d.path)
		r.Complete = r.Complete && sum.Complete()
		r.Files = append(r.Files, sum)
	}
	if s.Out == "" && !r.Complete {
		return r, because(manifest.ErrSignature, "repository %s: other root keys have to sign first (%s); name a folder for the new files with --out, and carry it to them",
			s.Repo, r.missing())
	}
	for _, f := range r.Files {
		if _, err := os.Lstat(f.File); err == nil {
			return r, fmt.Errorf("%s: %w: the folder holds another rotation; choose another --out", f.File, fs.ErrExist)
		}
	}
	if err := os.MkdirAll(out, 0o755); err != nil {
		return r, fmt.Errorf("folder %s: %w", out, advise(err))
	}
	files, err := p.files(s.Out != "")
	if err != nil {
		return r, err
	}
	for _, f := range files {
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

func sameFolder(a, b string) bool {
	x, err := os.Stat(a)
	if err != nil {
		return false
	}
	y, err := os.Stat(b)
	return err == nil && os.SameFile(x, y)
}

type namedFile struct {
	name  string
	data  []byte
	fresh bool // must not be there
}

// files are the new files, with those before them when they go to a folder that
// travels, and root.json.
func (p *rotation) files(travel bool) (list []namedFile, err error) {
	put := func(d *document, name string, fresh bool) {
		var data []byte
		if err == nil {
			data, err = d.encode()
		}
		list = append(list, namedFile{name, data, fresh})
	}
	if travel {
		put(p.old.root, manifest.FileName("root", p.old.root.version), false)
		put(p.old.targets, manifest.FileName("targets", p.old.targets.version), false)
	}
	for _, d := range p.docs {
		put(d, d.path, true)
	}
	if travel || p.newRoot {
		put(p.next(), RootName, false)
	}
	return list, err
}

// missing says how many signatures each file still needs.
func (r RotateResult) missing() string {
	var list []string
	for _, f := range r.Files {
		if n := max(f.Threshold-len(f.Good), 0); n > 0 {
			list = append(list, fmt.Sprintf("%s: %d more", filepath.Base(f.File), n))
		}
		if f.Before != nil && len(f.Before.Good) < f.Before.Threshold {
			list = append(list, fmt.Sprintf("%s: %d more of root version %d", filepath.Base(f.File), f.Before.Threshold-len(f.Before.Good), f.Version-1))
		}
	}
	return strings.Join(list, ", ")
}

// Words tells a person what Rotate made and what comes next.
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
			b.WriteString("Valid. To take it over:\n")
		}
		fmt.Fprintf(&b, "  phase-sign verify --root %s --repo %s %s\n  cp %s/*.json %s/\n",
			filepath.Join(r.Repo, RootName), r.Dir, strings.Join(files, " "), r.Dir, r.Repo)
	}
	b.WriteString("The publisher takes it up with its repository; with a new online or IPNS key, start it again with that key.\n")
	return b.String()
}
