package manifest

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"slices"
	"strings"
	"time"

	"github.com/theupdateframework/go-tuf/v2/metadata"
)

// ConfigRole is the delegated role with the settings of machines. Its targets are config/SELECTOR.json.
const ConfigRole = "config"

const (
	configField   = "config" // of x-phaseboot, which tells this role from a release
	configFormat  = "phaseboot/config/v1"
	configPaths   = "config/*"
	configPrefix  = "config/"
	configSuffix  = ".json"
	documentField = "document" // of custom: the target file itself
	maxSelectors  = 4096       // documents of one role
)

// A Config is the content of the role config: a settings document for each selector. A document is a target file and
// is in the role too, so that a machine has it as soon as it has the role.
type Config struct {
	Repository string              `json:"repository,omitempty"` // ID
	Number     int64               `json:"role_version"`         // TUF version
	SignedAt   time.Time           `json:"signed_at"`
	Expires    time.Time           `json:"expires"`
	Settings   map[string]Settings `json:"settings"` // by selector
}

// EncodeConfig returns a config as an unsigned delegated role. Content that machines refuse, and more than a metadata
// file may have, wrap ErrMalformed. Dates are cut to whole seconds.
func EncodeConfig(c Config) (*metadata.Metadata[metadata.TargetsType], error) {
	role := metadata.Targets(c.Expires.UTC().Truncate(time.Second))
	role.Signed.Version = c.Number
	fields := object{configField: configFormat, "signed_at": c.SignedAt.UTC().Format(timeLayout)}
	if c.Repository != "" {
		fields[repositoryField] = c.Repository
	}
	role.Signed.UnrecognizedFields = object{extension: fields}
	for selector, s := range c.Settings {
		document, err := EncodeSettings(s)
		if err != nil {
			return nil, inFile(selector, err)
		}
		custom, err := json.Marshal(map[string]string{documentField: string(document)})
		if err != nil {
			return nil, err
		}
		sum := sha256.Sum256(document)
		target := metadata.TargetFile()
		target.Length, target.Custom = int64(len(document)), (*json.RawMessage)(&custom)
		target.Hashes["sha256"] = sum[:]
		role.Signed.Targets[configPrefix+selector+configSuffix] = target
	}
	d, err := NewDocument(KindConfig, role)
	if err != nil {
		return nil, err
	}
	return metadata.Targets().FromBytes(d.data)
}

// config checks the fields of the role config and their types; Document.decodeConfig checks their values.
func (l *linter) config(signed object) {
	if _, ok := signed["delegations"]; ok {
		l.fail("signed.delegations", "the role config cannot delegate")
	}
	path := "signed." + extension
	l.get("signed", signed, extension)
	x := l.extension(signed, configField, "signed_at")
	if got := l.text(join(path, configField), l.get(path, x, configField)); l.err == nil && got != configFormat {
		l.fail(join(path, configField), "is %.40q where %q is expected; update this program", got, configFormat)
	}
	l.signedAt(join(path, "signed_at"), l.get(path, x, "signed_at"), signed)
	targets := l.object("signed.targets", l.get("signed", signed, "targets"))
	if len(targets) > maxSelectors {
		l.fail("signed.targets", "%d documents; at most %d are read", len(targets), maxSelectors)
	}
	for _, name := range sorted(targets) {
		p := join("signed.targets", name)
		file := l.object(p, targets[name])
		l.known(p, file, "length", "hashes", "custom")
		l.integer(join(p, "length"), l.get(p, file, "length"), 1, MaxSettings)
		l.hashes(join(p, "hashes"), l.get(p, file, "hashes"))
		custom := l.object(join(p, "custom"), l.get(p, file, "custom"))
		l.known(join(p, "custom"), custom, documentField)
		l.text(join(join(p, "custom"), documentField), l.get(join(p, "custom"), custom, documentField))
	}
}

// configDelegation checks the delegation of the role config: its keys may sign nothing but settings, and no other role
// may sign these.
func (l *linter) configDelegation(path string, role object) {
	paths, _ := role["paths"].([]any)
	if len(paths) != 1 || paths[0] != configPaths {
		l.fail(join(path, "paths"), "of the role config must be %q alone", configPaths)
	}
	if role["terminating"] != true {
		l.fail(join(path, "terminating"), "of the role config must be true")
	}
}

// decodeConfig reads the role config, which passed Lint. It refuses targets that are not config/SELECTOR.json
// (ErrPath), and documents that differ from their length or sha256, or that ParseSettings refuses (ErrMalformed).
func (d *Document) decodeConfig() (Config, error) {
	c := Config{Repository: d.Repository(), Number: d.Version(), SignedAt: d.SignedAt(), Expires: d.Expires(), Settings: map[string]Settings{}}
	targets := d.signed["targets"].(object)
	for _, path := range sorted(targets) {
		name, inside := strings.CutPrefix(path, configPrefix)
		selector, suffixed := strings.CutSuffix(name, configSuffix)
		if !inside || !suffixed {
			return Config{}, refuse(ErrPath, "%.80q is not config/SELECTOR.json, the only place for settings", path)
		}
		if err := checkSelector(selector); err != nil {
			return Config{}, err
		}
		document := configDocument(targets[path])
		target := targets[path].(object)
		sum := sha256.Sum256([]byte(document))
		if target["length"] != int64(len(document)) || target["hashes"].(object)["sha256"] != hex.EncodeToString(sum[:]) {
			return Config{}, malformed("%s: the document in the role is not the target file", path)
		}
		s, err := ParseSettings([]byte(document))
		if err == nil && strings.HasPrefix(selector, selectorGroup) && len(s.Groups) > 0 {
			err = malformed("settings: a group cannot put its machines into groups; give --group to the machines or to default")
		}
		if err != nil {
			return Config{}, inFile(path, err)
		}
		c.Settings[selector] = s
	}
	return c, nil
}

// configDocument is the document of a target of the role config.
func configDocument(target any) string {
	return target.(object)["custom"].(object)[documentField].(string)
}

// Config is what the role config says, nil for other kinds. The caller must not change it.
func (d *Document) Config() *Config { return d.config }

// MachineSettings are the settings of one machine: those of all documents for it, merged.
type MachineSettings struct {
	Settings
	Number    int64    // version of the role config, 0 if the repository has none
	Selectors []string // of the documents, the most specific last
	Expired   bool     // the role config is expired: only its groups count, unless Policy.StaleSettings
}

// For merges the documents for a machine: default, then those of its groups, sorted by name, then those of the machine
// itself, in the order of m.Selectors. The groups are those of m, and those of the last document that has some.
func (c *Config) For(m Machine) MachineSettings {
	out := MachineSettings{Number: c.Number}
	add := func(s *Settings, selector string) {
		if next, ok := c.Settings[selector]; ok {
			*s = s.Over(next)
			out.Selectors = append(out.Selectors, selector)
		}
	}
	var own Settings
	add(&out.Settings, SelectorDefault)
	shared := out.Selectors
	out.Selectors = nil
	for _, selector := range m.Selectors {
		add(&own, selector)
	}
	selected := out.Selectors
	out.Selectors = shared
	groups := own.Groups
	if len(groups) == 0 {
		groups = out.Groups
	}
	groups = slices.Compact(slices.Sorted(slices.Values(append(slices.Clone(m.Groups), groups...))))
	for _, g := range groups {
		add(&out.Settings, selectorGroup+g)
	}
	out.Settings = out.Settings.Over(own)
	out.Selectors = append(out.Selectors, selected...)
	out.Groups = groups
	return out
}

// CheckConfig judges a role config that is not published yet, as CheckRole does a release.
func CheckConfig(rootJSON, targetsJSON, configJSON []byte, now time.Time) (Config, error) {
	root, targets, err := checkTargets(rootJSON, targetsJSON, now)
	if err != nil {
		return Config{}, err
	}
	role, err := open(KindConfig, configJSON)
	if err != nil {
		return Config{}, inFile("settings", err)
	}
	id := versioned(ConfigRole, role.Version())
	owners := targets.delegation(ConfigRole)
	if owners == nil {
		return Config{}, refuse(ErrPath, "%s: this repository has no role config; add it with 'phase-sign rotate --config'", id)
	}
	if err := root.checkSigned(role, owners.authority, owners.remedy(role)); err != nil {
		return Config{}, inFile(id, err)
	}
	if err := checkDate(now, "", id, role.Expires(), settingsAgain); err != nil {
		return Config{}, err
	}
	c, err := role.decodeConfig()
	return c, inFile(id, err)
}

// CheckSignedAt refuses settings whose date of signing is more than ten minutes after now, as Release.CheckSignedAt.
func (c Config) CheckSignedAt(now time.Time) error {
	if c.SignedAt.Sub(now) <= maxAhead {
		return nil
	}
	return refuse(ErrUntrusted, "settings: signed at %s, and it is %s; set the clock right, and sign them again", stamp(c.SignedAt), stamp(now))
}

// updateConfig updates the role config, if the repository has one, and returns it with whether it is expired. A
// refusal is one of the whole repository: the snapshot names the role, so a source cannot leave it out.
func (w *workflow) updateConfig(ctx context.Context) (c *Config, expired error, err error) {
	owners := w.targets.delegation(ConfigRole)
	if owners == nil || w.snapshot.metaFile(ConfigRole+".json") == nil {
		return nil, nil, nil
	}
	doc, id, err := w.acceptRole(ctx, ConfigRole, KindConfig, owners.authority)
	if err != nil {
		return nil, nil, err
	}
	config, err := doc.decodeConfig()
	if err != nil {
		return nil, nil, inFile(id, err)
	}
	now, source := w.time.now, w.time.source
	if w.time.unchecked { // the last good release: also then the mode decides about expired settings
		now, source = w.latestTime(config.SignedAt), ""
	}
	return &config, checkDate(now, source, id, doc.Expires(), settingsAgain), nil
}

// machineSettings returns the settings for the machine of the policy.
func (w *workflow) machineSettings(ctx context.Context) (MachineSettings, error) {
	none := MachineSettings{Settings: Settings{Groups: w.policy.Machine.Groups}}
	config, expired, err := w.updateConfig(ctx)
	switch {
	case err != nil || config == nil:
		return none, err
	case expired != nil && !w.policy.StaleSettings:
		w.note("%v; the machine boots without settings, and its groups still choose the release", expired)
		none.Groups = config.For(w.policy.Machine).Groups // a hold does not end because a date has passed
		none.Number, none.Expired = config.Number, true
		return none, nil
	case expired != nil:
		w.note("%v; they are used, as the mode allows", expired)
	}
	s := config.For(w.policy.Machine)
	s.Expired = expired != nil
	return s, nil
}
