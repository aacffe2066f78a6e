package signer

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"github.com/dustin/go-humanize"

	"github.com/phaseboot/phaseboot/internal/refusal"
	"github.com/phaseboot/phaseboot/manifest"
)

// VerifySpec names the files to verify and the root that is trusted.
type VerifySpec struct {
	Root      string // the trusted root.json
	Repo      string // folder with newer roots and N.targets.json; the folder of the root when empty
	Files     []string
	Artifacts string // folder with the files of a release, to compare with it; "" compares none
	Watch     Watch
	Now       time.Time
}

// A Verdict lists the verified files and the root that verified them.
type Verdict struct {
	Files     []Summary    `json:"files"`
	By        Judge        `json:"verified_by"`
	Artifacts []Comparison `json:"artifacts,omitempty"`
}

// A Judge is the trusted root, and the newest root that follows it.
type Judge struct {
	File       string `json:"file"`
	Version    int64  `json:"version"`
	Digest     string `json:"digest"` // as Summary has it
	Repository string `json:"repository"`
	Newest     int64  `json:"newest_root"` // version of the last root that follows from it
}

// Verify verifies metadata files one by one: a release manifest by the newest targets.json of the
// folder, other kinds by the roots. Signatures up to the threshold, expiry, paths and content are
// checked. Whether a newer release exists is not checked: that needs a snapshot and a timestamp, and
// manifest.Verify. With s.Artifacts, the files of each release are compared too; a different file
// wraps cas.ErrCorrupt, a missing one fs.ErrNotExist. The first error ends it.
func Verify(ctx context.Context, s VerifySpec) (Verdict, error) {
	if s.Repo == "" {
		s.Repo = filepath.Dir(s.Root)
	}
	r, err := openRepository(s.Root, s.Repo, true, s.Now)
	if err != nil {
		return Verdict{}, err
	}
	v := Verdict{By: Judge{s.Root, r.trusted.Version(), r.trusted.Digest(), r.trusted.Repository(), r.root.Version()}}
	for _, path := range s.Files {
		d, err := openDocument(path)
		if err != nil {
			return Verdict{}, err
		}
		sum, err := s.verify(ctx, r, d)
		if err != nil {
			return Verdict{}, err
		}
		v.Files = append(v.Files, sum)
		if s.Artifacts == "" || d.Release() == nil {
			continue
		}
		found, err := compareFiles(ctx, *d.Release(), s.Artifacts, s.Watch)
		if err != nil {
			return Verdict{}, err
		}
		v.Artifacts = append(v.Artifacts, found...)
	}
	if s.Artifacts != "" && v.Artifacts == nil {
		return Verdict{}, refusal.Invalid("--artifacts %s: no release is among the files to verify; name its manifest", s.Artifacts)
	}
	return v, nil
}

// verify verifies one file by the trusted root, or by the repository that follows from it.
func (s VerifySpec) verify(ctx context.Context, r *repository, d *document) (Summary, error) {
	if d.Kind() != manifest.KindRoot {
		return summarize(d, r), r.check(d, s.Now)
	}
	root, err := r.trusted.Root()
	if err == nil {
		err = root.CheckRoot(ctx, d.Document, manifest.DirFetcher(s.Repo), s.Now)
	}
	return summarize(d, &repository{dir: s.Repo, root: d}), d.fail(err)
}

// Words describes the verified files for an operator. The last line is the verdict.
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
