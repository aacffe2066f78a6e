package signer

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"

	"github.com/dustin/go-humanize"

	"github.com/phaseboot/phaseboot/internal/file"
	"github.com/phaseboot/phaseboot/internal/refusal"
	"github.com/phaseboot/phaseboot/manifest"
)

// ShowSpec names the file to show and the repository that lists its keys.
type ShowSpec struct {
	File     string
	Repo     string // folder with root.json and N.targets.json; the folder of the file when empty
	Previous string // the release to compare with; the newest older one of Repo when empty
}

// Show describes a metadata file of any kind. It counts the signatures by the keys that the
// repository lists; without a repository all are unlisted. For a file that was changed after a
// listed key signed it, it returns the summary and an error that wraps manifest.ErrSignature; for a
// file of another repository, one that wraps manifest.ErrRepository.
func Show(s ShowSpec) (Summary, error) {
	d, err := openDocument(s.File)
	if err != nil {
		return Summary{}, err
	}
	r, err := repositoryOf(d, s.Repo)
	if err != nil && (s.Repo != "" || !errors.Is(err, fs.ErrNotExist)) {
		return Summary{}, err
	}
	if s.Repo != "" {
		if _, err := r.keysOf(d.Kind(), d.Role()); err != nil {
			return Summary{}, err
		}
	}
	sum := summarize(d, r)
	if err := s.compare(&sum, d); err != nil {
		return Summary{}, err
	}
	if len(sum.Bad) > 0 {
		return sum, altered(d, sum.Bad)
	}
	if r == nil {
		return sum, nil
	}
	return sum, r.checkRepository(d)
}

// compare fills in the changes since the previous release, root or targets, if there is one.
func (s ShowSpec) compare(sum *Summary, d *document) error {
	dir := s.Repo
	if d.Release() == nil {
		if s.Previous != "" {
			return refusal.Invalid("--previous %s: %s is %s metadata, and releases alone are compared; leave it out", s.Previous, d.path, d.Kind())
		}
		if dir == "" {
			dir = d.folder()
		}
		return sinceLast(sum, d, dir)
	}
	path := s.Previous
	if path == "" && dir != "" {
		var err error
		if path, err = before(dir, d); err != nil {
			return err
		}
	}
	if path == "" {
		return nil
	}
	old, err := openDocument(path)
	if err != nil {
		return err
	}
	from, to := old.Release(), d.Release()
	if from == nil {
		return refusal.Invalid("manifest %s: is %s metadata; name a release", path, old.Kind())
	}
	sum.Since = fmt.Sprintf("%s (version %d)", from.Version, from.Number)
	sum.Changes = changes(*from, *to)
	if sameContent(*from, *to) && sameRollout(*from, *to) && from.Version == to.Version && old.Role() == d.Role() {
		sum.Changes = []string{"the dates only"}
	}
	return nil
}

// before returns the path of the newest release in a folder with the role of d and a lower version,
// "" when there is none.
func before(dir string, d *document) (string, error) {
	newest, err := manifest.DirFetcher(dir).Newest(d.Role())
	if err != nil {
		return "", fmt.Errorf("repository %s: %w", dir, file.Advise(err))
	}
	version := min(newest, d.Version()-1)
	if version < 1 {
		return "", nil
	}
	return filepath.Join(dir, manifest.FileName(d.Role(), version)), nil
}

// changes lists the differences of a release to an older one for an operator.
func changes(from, to manifest.Release) []string {
	var list []string
	note := func(what string, from, to any) {
		if from != to {
			list = append(list, fmt.Sprintf("%s: %v → %v", what, from, to))
		}
	}
	note("channel", from.Channel, to.Channel)
	note("architecture", from.Arch, to.Arch)
	note("release", from.Version, to.Version)
	note("cmdline", fmt.Sprintf("%q", from.Cmdline), fmt.Sprintf("%q", to.Cmdline))
	note("memory", fmt.Sprintf("%d MiB", from.MinRAM), fmt.Sprintf("%d MiB", to.MinRAM))
	note("blessing", blessWords(from.Bless), blessWords(to.Bless))
	note("job to run", fmt.Sprintf("%q", from.Job), fmt.Sprintf("%q", to.Job))
	for _, a := range to.Artifacts {
		old, ok := from.Artifact(a.Role)
		switch {
		case !ok:
			list = append(list, fmt.Sprintf("%s: new, %s bytes", a.Role, humanize.Comma(a.Length)))
		case old.SHA256 != a.SHA256:
			list = append(list, fmt.Sprintf("%s: other content, %s → %s bytes", a.Role, humanize.Comma(old.Length), humanize.Comma(a.Length)))
		default:
			list = append(list, fmt.Sprintf("%s: the same", a.Role))
		}
	}
	for _, a := range from.Artifacts {
		if _, ok := to.Artifact(a.Role); !ok {
			list = append(list, fmt.Sprintf("%s: gone", a.Role))
		}
	}
	note("roll-out", from.Rollout.Words(), to.Rollout.Words())
	note("fallback floor", from.FallbackFloor, to.FallbackFloor)
	list = append(list, listChanges("earlier release", earlierNames(from), earlierNames(to))...)
	list = append(list, submitterChanges(from.Submitters, to.Submitters)...)
	return append(list, remainingSubmitters(to)...)
}

// sinceLast fills in the differences of a root or targets to the one before it in a folder.
func sinceLast(sum *Summary, d *document, dir string) error {
	if d.Kind() != manifest.KindRoot && d.Kind() != manifest.KindTargets && d.Kind() != manifest.KindConfig || d.Version() < 2 {
		return nil
	}
	old, err := openVersion(dir, d.Role(), d.Version()-1)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if old.Config() != nil {
		sum.sinceConfig(*old.Config())
		return nil
	}
	sum.Since = fmt.Sprintf("%s version %d", d.Role(), old.Version())
	sum.Changes = roleChanges(old.Roles(), d.Roles())
	if d.Kind() == manifest.KindRoot {
		from, to := old.Discovery(), d.Discovery()
		sum.Changes = append(sum.Changes, listChanges("IPNS name", from.IPNS, to.IPNS)...)
		sum.Changes = append(sum.Changes, listChanges("mirror", from.HTTPS, to.HTTPS)...)
		sum.Changes = append(sum.Changes, listChanges("DHT peer", from.Bootstrap, to.Bootstrap)...)
	}
	if len(sum.Changes) == 0 {
		sum.Changes = []string{"the date only"}
	}
	return nil
}

// roleChanges lists the differences between the roles of two roots or two targets.
func roleChanges(from, to []manifest.RoleKeys) []string {
	var list []string
	for _, r := range to {
		i := slices.IndexFunc(from, func(o manifest.RoleKeys) bool { return o.Name == r.Name })
		if i < 0 {
			list = append(list, fmt.Sprintf("%s: new, %d of %s", r.Name, r.Threshold, short(r.Keys)))
			continue
		}
		list = append(list, listChanges(r.Name+": key", formatEach("%.8s…", from[i].Keys), formatEach("%.8s…", r.Keys))...)
		list = append(list, listChanges(r.Name+": path", formatEach("%q", from[i].Paths), formatEach("%q", r.Paths))...)
		if was, is := from[i].Terminating, r.Terminating; was != nil && is != nil && *was != *is {
			list = append(list, fmt.Sprintf("%s: terminating %t → %t", r.Name, *was, *is))
		}
		if from[i].Threshold != r.Threshold {
			list = append(list, fmt.Sprintf("%s: threshold %d → %d", r.Name, from[i].Threshold, r.Threshold))
		}
	}
	for _, o := range from {
		if !slices.ContainsFunc(to, func(r manifest.RoleKeys) bool { return r.Name == o.Name }) {
			list = append(list, fmt.Sprintf("%s: gone", o.Name))
		}
	}
	return list
}

// listChanges lists the values that were added and removed.
func listChanges(what string, from, to []string) []string {
	var list []string
	for _, v := range to {
		if !slices.Contains(from, v) {
			list = append(list, fmt.Sprintf("%s %s: added", what, v))
		}
	}
	for _, v := range from {
		if !slices.Contains(to, v) {
			list = append(list, fmt.Sprintf("%s %s: removed", what, v))
		}
	}
	return list
}

// formatEach formats each text of a list.
func formatEach(format string, list []string) []string {
	var out []string
	for _, s := range list {
		out = append(out, fmt.Sprintf(format, s))
	}
	return out
}
