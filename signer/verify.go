package signer

import (
	"bytes"
	"context"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"github.com/dustin/go-humanize"

	"github.com/phaseboot/phaseboot/manifest"
)

// VerifySpec names what is trusted and what is to be judged by it.
type VerifySpec struct {
	Root      string // the trusted root.json
	Repo      string // folder with newer roots and N.targets.json; the root's own when empty
	Files     []string
	Artifacts string // folder with the files of a release, to be compared with it; "" compares none
	Watch     Watch
	Now       time.Time
}

// A Verdict says what was judged and by which root.
type Verdict struct {
	Files     []Summary    `json:"files"`
	By        Judge        `json:"verified_by"`
	Artifacts []Comparison `json:"artifacts,omitempty"`
}

// A Judge is the root that a person trusts, and how far the roots after it lead.
type Judge struct {
	File       string `json:"file"`
	Version    int64  `json:"version"`
	Digest     string `json:"digest"` // as Summary has it
	Repository string `json:"repository"`
	Newest     int64  `json:"newest_root"` // version of the last root that follows from it
}

// Verify judges metadata files one by one: a release manifest by the newest targets.json
// of the folder, everything else by the roots. Signatures up to the threshold, dates,
// paths and the grammar are checked, freshness is not: that is what a snapshot and a
// timestamp are for, and manifest.Verify. With s.Artifacts the files of each release are
// compared as well; a file that differs wraps cas.ErrCorrupt, one that is not there
// fs.ErrNotExist. The first refusal ends it.
func Verify(ctx context.Context, s VerifySpec) (Verdict, error) {
	if s.Repo == "" {
		s.Repo = filepath.Dir(s.Root)
	}
	trusted, err := openRoot(s.Root)
	if err != nil {
		return Verdict{}, err
	}
	t, err := openTrust(s.Root, s.Repo, true, s.Now)
	if err != nil {
		return Verdict{}, err
	}
	v := Verdict{By: Judge{s.Root, trusted.version, trusted.digest(), trusted.repository, t.root.version}}
	for _, path := range s.Files {
		d, err := openDocument(path)
		if err != nil {
			return Verdict{}, err
		}
		sum, err := s.judge(t, d)
		if err != nil {
			return Verdict{}, err
		}
		v.Files = append(v.Files, sum)
		if s.Artifacts == "" || d.release == nil {
			continue
		}
		found, err := compareFiles(ctx, *d.release, s.Artifacts, s.Watch)
		if err != nil {
			return Verdict{}, err
		}
		v.Artifacts = append(v.Artifacts, found...)
	}
	if s.Artifacts != "" && v.Artifacts == nil {
		return Verdict{}, invalid("--artifacts %s: no release is among the files to verify; name its manifest", s.Artifacts)
	}
	return v, nil
}

func (s VerifySpec) judge(t *trust, d *document) (Summary, error) {
	if d.kind == manifest.KindRoot {
		return summarize(d, &trust{dir: s.Repo, root: d}), s.verifyRoot(d)
	}
	return summarize(d, t), t.check(d, s.Now)
}

// Words tells a person what was verified; the last line is the verdict.
func (v Verdict) Words(now time.Time) string {
	var b strings.Builder
	for _, sum := range v.Files {
		b.WriteString(sum.File + ": " + sum.Words(now))
	}
	for _, c := range v.Artifacts {
		fmt.Fprintf(&b, "%s: %s is the file of the release, %s bytes\n", c.Role, c.File, humanize.Comma(c.Length))
	}
	newer := ""
	if v.By.Newest > v.By.Version {
		newer = fmt.Sprintf(", followed to root version %d", v.By.Newest)
	}
	fmt.Fprintf(&b, "verified by %s version %d (digest %s)%s\n", filepath.Base(v.By.File), v.By.Version, v.By.Digest, newer)
	return b.String()
}

// verifyRoot walks from the trusted root to d.
func (s VerifySpec) verifyRoot(d *document) error {
	at, err := openRoot(s.Root)
	if err != nil {
		return err
	}
	if err := signedBy(at, at); err != nil {
		return err
	}
	if d.version < at.version {
		return because(manifest.ErrRollback, "manifest %s: root version %d is older than %d, which is trusted", d.path, d.version, at.version)
	}
	for at.version < d.version {
		next := d
		if at.version+1 < d.version {
			if next, err = openDocument(filepath.Join(s.Repo, manifest.FileName("root", at.version+1))); err != nil {
				return err
			}
		}
		if err := successor(at, next); err != nil {
			return err
		}
		at = next
	}
	if !bytes.Equal(at.payload, d.payload) {
		return because(manifest.ErrSignature, "manifest %s: another root of version %d than the trusted one; it is of another repository", d.path, d.version)
	}
	if err := signedBy(d, d); err != nil {
		return err
	}
	return fresh(d, s.Now)
}
