package signer

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/dustin/go-humanize"

	"github.com/phaseboot/phaseboot/internal/atomicfile"
	"github.com/phaseboot/phaseboot/internal/file"
	"github.com/phaseboot/phaseboot/internal/refusal"
	"github.com/phaseboot/phaseboot/manifest"
	"github.com/phaseboot/phaseboot/signer/key"
)

// ConfigSpec names the repository whose settings of machines are changed, and the file to write.
type ConfigSpec struct {
	Repo     string
	Out      string    // the next role config; one that is there already and not published is changed further
	Force    bool      // change one at Out that other keys have signed, and replace one that does not follow the published one
	Keys     []key.Key // of the role config
	Now      time.Time
	Lifetime time.Duration
}

// SetConfig writes the role config that follows the one in the repository to s.Out, with the settings of one selector
// changed, and signs it. change gets the present settings, the zero value if there are none. Settings that machines
// refuse wrap fs.ErrInvalid; a repository without the role fs.ErrNotExist.
func SetConfig(ctx context.Context, s ConfigSpec, selector string, change func(manifest.Settings) manifest.Settings) (Summary, error) {
	selector, err := manifest.ParseSelector(selector)
	if err != nil {
		return Summary{}, refusal.Invalid("--machine: %v", err)
	}
	return s.write(ctx, func(list map[string]manifest.Settings) error {
		next := change(list[selector])
		if next.IsZero() {
			return refusal.Invalid("%s: nothing is set; give a setting such as --hostname, or remove it with 'phase-sign config remove'", selector)
		}
		list[selector] = next
		return nil
	})
}

// RemoveConfig is SetConfig without the settings of a selector.
func RemoveConfig(ctx context.Context, s ConfigSpec, selector string) (Summary, error) {
	selector, err := manifest.ParseSelector(selector)
	if err != nil {
		return Summary{}, refusal.Invalid("--machine: %v", err)
	}
	return s.write(ctx, func(list map[string]manifest.Settings) error {
		if _, ok := list[selector]; !ok {
			return refusal.New(fs.ErrNotExist, "%s: has no settings; 'phase-sign config show' lists those that have", selector)
		}
		delete(list, selector)
		return nil
	})
}

// RenewConfig is SetConfig with later dates alone.
func RenewConfig(ctx context.Context, s ConfigSpec) (Summary, error) {
	return s.write(ctx, func(map[string]manifest.Settings) error { return nil })
}

// ShowConfig returns the newest role config of a repository, verified except for its date.
func ShowConfig(repo string) (manifest.Config, error) {
	r, err := openRepository(filepath.Join(repo, RootName), repo, true, time.Time{})
	if err != nil {
		return manifest.Config{}, err
	}
	c, err := r.newestConfig()
	if err == nil && c.Number == 0 {
		err = refusal.New(fs.ErrNotExist, "repository %s: no settings yet; make some with 'phase-sign config set'", repo)
	}
	return c, err
}

// write signs the next role config, with the settings that change has changed.
func (s ConfigSpec) write(ctx context.Context, change func(map[string]manifest.Settings) error) (Summary, error) {
	r, err := openRepository(filepath.Join(s.Repo, RootName), s.Repo, true, s.Now)
	if err != nil {
		return Summary{}, err
	}
	listed, err := r.keysOf(manifest.KindConfig, manifest.ConfigRole)
	if err != nil {
		return Summary{}, err
	}
	if err := checkKeys(manifest.ConfigRole, listed, s.Keys); err != nil {
		return Summary{}, err
	}
	before, err := r.newestConfig()
	if err != nil {
		return Summary{}, err
	}
	next, err := s.unpublished(r, before)
	if err != nil {
		return Summary{}, err
	}
	if next.Settings = maps.Clone(next.Settings); next.Settings == nil { // before has it too
		next.Settings = map[string]manifest.Settings{}
	}
	if err := change(next.Settings); err != nil {
		return Summary{}, err
	}
	next.Repository, next.Number = r.root.Repository(), before.Number+1
	next.SignedAt, next.Expires = s.Now, s.Now.Add(s.Lifetime)
	role, err := manifest.EncodeConfig(next)
	if err != nil {
		return Summary{}, refusal.Invalid("settings: %v", err)
	}
	m, err := manifest.NewDocument(manifest.KindConfig, role)
	if err != nil {
		return Summary{}, err
	}
	d := &document{m, s.Out}
	if err := d.sign(ctx, s.Keys...); err != nil {
		return Summary{}, err
	}
	if err := atomicfile.Write(s.Out, 0o644, d.Data()); err != nil {
		return Summary{}, d.fail(err)
	}
	sum := summarize(d, r)
	sum.sinceConfig(before)
	return sum, nil
}

// newestConfig returns the newest role config in the repository, the zero value if there is none.
func (r *repository) newestConfig() (manifest.Config, error) {
	if r.targets == nil {
		return manifest.Config{}, r.noTargets()
	}
	newest, err := manifest.DirFetcher(r.dir).Newest(manifest.ConfigRole)
	if err != nil {
		return manifest.Config{}, fmt.Errorf("repository %s: %w", r.dir, file.Advise(err))
	}
	if newest == 0 {
		return manifest.Config{}, nil
	}
	d, err := openVersion(r.dir, manifest.ConfigRole, newest)
	if err != nil {
		return manifest.Config{}, err
	}
	return *d.Config(), r.check(d, time.Time{})
}

// unpublished returns the role config at s.Out if it follows the one in the repository and a listed key has signed it,
// else that one. A file of another kind or repository is not replaced; one that was not published and does not follow,
// and signatures of others, are lost with s.Force alone.
func (s ConfigSpec) unpublished(r *repository, before manifest.Config) (manifest.Config, error) {
	d, err := openDocument(s.Out)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return before, nil
	case err != nil || d.Kind() != manifest.KindConfig:
		return before, refusal.Invalid("%s: the file there is not the settings of machines; choose another name for --out", s.Out)
	case r.checkRepository(d) != nil:
		return before, refusal.Invalid("%s: has the settings of another repository; choose another name for --out", s.Out)
	}
	published, err := isPublished(r, d, before.Number)
	switch {
	case err != nil || published:
		return before, err
	case d.Version() != before.Number+1 && s.Force:
		return before, nil
	case d.Version() > before.Number+1:
		return before, refusal.New(fs.ErrExist, "%s: has settings of version %d, and the newest in repository %s is %d; get the repository again, or replace the file with --force", s.Out, d.Version(), r.dir, before.Number)
	case d.Version() <= before.Number:
		return before, refusal.New(fs.ErrExist, "%s: has settings of version %d that are not published, and another version %d is, so they would be lost; rename the file and set them again, or replace it with --force", s.Out, d.Version(), d.Version())
	case len(r.signatures(d).Good) == 0:
		return before, refusal.New(manifest.ErrSignature, "%s: none of the keys of the role config has signed it; remove it, or choose another name for --out", s.Out)
	case len(r.signatures(d).Bad) > 0:
		return before, altered(d, r.signatures(d).Bad)
	}
	if other := d.signedByOthers(s.Keys); other != "" && !s.Force {
		return before, refusal.New(fs.ErrExist, "%s: has a signature by %.8s…, which would be lost; publish it first with 'phase-publish config', or change it with --force", s.Out, other)
	}
	return *d.Config(), nil
}

// sinceConfig fills in the differences to the role config before.
func (s *Summary) sinceConfig(before manifest.Config) {
	if before.Number == 0 || s.Config == nil {
		return
	}
	s.Since, s.Changes = fmt.Sprintf("config version %d", before.Number), configChanges(before, *s.Config)
}

// configChanges lists the selectors whose settings differ.
func configChanges(from, to manifest.Config) (list []string) {
	for _, selector := range selectors(to) {
		old, ok := from.Settings[selector]
		was, now := strings.Join(settingsWords(old), "; "), strings.Join(settingsWords(to.Settings[selector]), "; ")
		switch {
		case !ok:
			list = append(list, selector+": new")
		case was != now:
			list = append(list, selector+": changed")
		}
	}
	for _, selector := range selectors(from) {
		if _, ok := to.Settings[selector]; !ok {
			list = append(list, selector+": removed")
		}
	}
	if list == nil {
		list = []string{"the dates only"}
	}
	return list
}

func selectors(c manifest.Config) []string { return slices.Sorted(maps.Keys(c.Settings)) }

// settingsWords describes settings, a line for each.
func settingsWords(s manifest.Settings) (list []string) {
	say := func(format string, args ...any) { list = append(list, fmt.Sprintf(format, args...)) }
	if s.Hostname != "" {
		say("hostname %s", s.Hostname)
	}
	if s.Preheat != "" {
		say("preheat release %s", s.Preheat)
	}
	if len(s.Groups) > 0 {
		say("groups %s", strings.Join(s.Groups, ", "))
	}
	if len(s.Cmdline) > 0 {
		say("cmdline %q", strings.Join(s.Cmdline, " "))
	}
	for _, k := range s.SSHKeys {
		say("SSH key %s", k)
	}
	for _, name := range slices.Sorted(maps.Keys(s.Network)) {
		say("network file %s: %q", name, s.Network[name])
	}
	for _, name := range slices.Sorted(maps.Keys(s.Credentials)) {
		say("credential %s, %s bytes, sha256 %.16s…", name, humanize.Comma(int64(len(s.Credentials[name]))), sha256Hex(s.Credentials[name]))
	}
	for _, name := range slices.Sorted(maps.Keys(s.Secrets)) {
		say("secret %s, sealed, %s bytes, sha256 %.16s…", name, humanize.Comma(int64(len(s.Secrets[name]))), sha256Hex(s.Secrets[name]))
	}
	return list
}

// configWords describes the settings of all selectors.
func configWords(b *strings.Builder, c manifest.Config) {
	for _, selector := range selectors(c) {
		line(b, selector, "")
		for _, words := range settingsWords(c.Settings[selector]) {
			line(b, "", "%s", words)
		}
	}
	if len(c.Settings) == 0 {
		line(b, "settings", "none")
	}
	line(b, "signed", "%s", stamp(c.SignedAt))
}

// ConfigWords describes the settings of machines for an operator. Selector is one of them, "" for all.
func ConfigWords(c manifest.Config, now time.Time) string {
	var b strings.Builder
	fmt.Fprintf(&b, "Settings of machines (config version %d)\n", c.Number)
	configWords(&b, c)
	line(&b, expiryVerb(c.Expires, now), "%s", stamp(c.Expires))
	return b.String()
}
