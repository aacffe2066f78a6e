package manifest

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"io/fs"
	"math/bits"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Limits on a roll-out.
const (
	MaxEarlier = 4  // earlier releases of one manifest
	maxGroups  = 64 // names of one list
)

const (
	earlierField = "earlier"
	rolloutField = "rollout"
)

var (
	groupGrammar   = regexp.MustCompile(`^[a-z0-9][a-z0-9_-]{0,31}$`)
	earlierGrammar = regexp.MustCompile(`^earlier-([1-9][0-9]{0,15})-([a-z]+)(?:-(.*))?$`)
)

// A Machine is what decides which release of a manifest a machine takes. The zero value is in no
// group, and outside of every percentage below 100.
type Machine struct {
	ID     string   // stays the same from boot to boot; "" is unknown
	Groups []string // names that CheckGroup accepts

	// Selectors name the machine in settings, the most specific last.
	Selectors []string
}

// CheckGroup refuses a name that no group can have. The error wraps ErrMalformed.
func CheckGroup(name string) error {
	if !groupGrammar.MatchString(name) {
		return malformed("group %.40q: use a-z, 0-9, _ and -, at most 32, a letter or digit first", name)
	}
	return nil
}

// A Rollout says which machines take a release. nil and the zero value are every machine. Groups and
// Percent add up; NotBefore and Hold take machines away.
type Rollout struct {
	Percent   *int      `json:"percent,omitempty"` // 0 to 100 of the machines, by the hash of their ID
	Groups    []string  `json:"groups,omitempty"`  // these take it, whatever the percentage is
	NotBefore time.Time `json:"not_before,omitzero"`
	Hold      []string  `json:"hold,omitempty"` // machines in one of these groups do not take it
}

// Conditional reports whether machines that are in no group of Hold may be outside.
func (r *Rollout) Conditional() bool {
	return r != nil && (r.Percent != nil && *r.Percent < 100 || r.Percent == nil && len(r.Groups) > 0 || !r.NotBefore.IsZero())
}

// stopped reports whether no machine takes the release.
func (r *Rollout) stopped() bool {
	return r != nil && r.Percent != nil && *r.Percent == 0 && len(r.Groups) == 0
}

// Held lists the groups that do not take the release.
func (r *Rollout) Held() []string {
	if r == nil {
		return nil
	}
	return r.Hold
}

// Words says for an operator which machines take the release.
func (r *Rollout) Words() string {
	if r == nil {
		return "every machine"
	}
	var who []string
	if r.Percent != nil {
		who = append(who, fmt.Sprintf("%d %% of the machines", *r.Percent))
	}
	if len(r.Groups) > 0 {
		who = append(who, "group "+strings.Join(r.Groups, ", "))
	}
	if len(who) == 0 {
		who = []string{"every machine"}
	}
	words := strings.Join(who, " and ")
	if !r.NotBefore.IsZero() {
		words += ", not before " + r.NotBefore.UTC().Format("2006-01-02 15:04 UTC")
	}
	if len(r.Hold) > 0 {
		words += ", without group " + strings.Join(r.Hold, ", ")
	}
	return words
}

// clone copies a roll-out with all that it refers to.
func (r *Rollout) clone() *Rollout {
	if r == nil {
		return nil
	}
	c := *r
	if r.Percent != nil {
		percent := *r.Percent
		c.Percent = &percent
	}
	c.Groups, c.Hold = slices.Clone(r.Groups), slices.Clone(r.Hold)
	return &c
}

// toSeconds returns a copy with its date in the form of TUF.
func (r *Rollout) toSeconds() *Rollout {
	c := r.clone()
	c.NotBefore = c.NotBefore.UTC().Truncate(time.Second)
	return c
}

// ContentNumber is the version of the role that first had this content. A manifest that is signed
// again for more machines keeps it.
func (r Release) ContentNumber() int64 {
	if r.First > 0 {
		return r.First
	}
	return r.Number
}

// All lists the release, without its earlier ones, and then these, the newest first.
func (r Release) All() []Release {
	list := append([]Release{r}, r.Earlier...)
	list[0].Earlier = nil
	return list
}

// Includes reports whether a machine takes this release at now. A larger percentage includes every
// machine that a smaller one of the same version string does.
func (r Release) Includes(m Machine, now time.Time) bool {
	o := r.Rollout
	switch {
	case o == nil:
		return true
	case slices.ContainsFunc(m.Groups, func(g string) bool { return slices.Contains(o.Hold, g) }):
		return false
	case now.Before(o.NotBefore):
		return false
	case slices.ContainsFunc(m.Groups, func(g string) bool { return slices.Contains(o.Groups, g) }):
		return true
	case o.Percent == nil:
		return len(o.Groups) == 0
	case *o.Percent == 100:
		return true
	}
	return m.ID != "" && r.percentile(m.ID) < *o.Percent
}

// percentile is 0 to 99: the first 8 bytes of a hash of channel, version string and machine ID, as a
// fraction of 2^64. Each version string draws anew, so that not always the same machines are the first.
func (r Release) percentile(id string) int {
	sum := sha256.Sum256([]byte("phaseboot rollout\x00" + r.Channel + "\x00" + r.Version + "\x00" + id))
	percent, _ := bits.Mul64(binary.BigEndian.Uint64(sum[:8]), 100)
	return int(percent)
}

// For returns the release that a machine takes at now, without its earlier ones: the first one of All
// that includes it. The error wraps fs.ErrNotExist if there is none.
func (r Release) For(m Machine, now time.Time) (Release, error) {
	for _, one := range r.All() {
		if one.Includes(m, now) {
			return one, nil
		}
	}
	groups := "in no group"
	if len(m.Groups) > 0 {
		groups = "in " + strings.Join(m.Groups, ", ")
	}
	return Release{}, refuse(fs.ErrNotExist, "release %.64q: its roll-out does not include this machine, which is %.200s, and no earlier release beside it does; remove the hold with 'phase-sign hold --remove', or change phase.group=", r.Version, groups)
}

// rolloutFields checks the fields of x-phaseboot that say which machines take which release.
func (l *linter) rolloutFields(path string, x, signed object) {
	critical, _ := x["critical"].([]any)
	for _, name := range []string{earlierField, rolloutField} {
		if _, ok := x[name]; ok && !slices.Contains(critical, any(name)) {
			l.fail(join(path, "critical"), "does not list %q: other readers would boot a release that is not for them", name)
		}
	}
	number, _ := signed["version"].(int64)
	if v, ok := x["number"]; ok {
		number = l.integer(join(path, "number"), v, 1, number)
	}
	if v, ok := x["fallback_floor"]; ok {
		l.integer(join(path, "fallback_floor"), v, 1, number)
	}
	if v, ok := x[rolloutField]; ok {
		l.rollout(join(path, rolloutField), v)
	}
	if v, ok := x[earlierField]; ok {
		l.earlier(join(path, earlierField), v, number)
	}
}

// rollout checks a field rollout. An unknown field in it is refused: it may take machines away.
func (l *linter) rollout(path string, v any) {
	o := l.object(path, v)
	l.known(path, o, "percent", "groups", "not_before", "hold")
	for _, name := range sorted(o) {
		p := join(path, name)
		switch name {
		case "percent":
			l.integer(p, o[name], 0, 100)
		case "groups", "hold":
			l.groups(p, o[name])
		case "not_before":
			l.time(p, o[name])
		default:
			l.fail(p, "is not known to this program; update it")
		}
	}
	if len(o) == 0 {
		l.fail(path, "has no field")
	}
}

func (l *linter) groups(path string, v any) {
	list := l.list(path, v)
	if len(list) == 0 || len(list) > maxGroups {
		l.fail(path, "%d groups; there must be 1 to %d", len(list), maxGroups)
	}
	seen := map[string]bool{}
	for i, v := range list {
		name := l.match(index(path, i), v, groupGrammar, "a group of a-z, 0-9, _ and -, at most 32")
		if seen[name] {
			l.fail(index(path, i), "%q is named twice", name)
		}
		seen[name] = true
	}
}

// earlier checks a field earlier. Numbers become smaller, from below that of the newest release.
func (l *linter) earlier(path string, v any, newest int64) {
	list := l.list(path, v)
	if len(list) == 0 || len(list) > MaxEarlier {
		l.fail(path, "%d releases; there must be 1 to %d", len(list), MaxEarlier)
		return
	}
	for i, v := range list {
		p := index(path, i)
		e := l.object(p, v)
		l.known(p, e, "number", "release", "cmdline", "min_ram", "job", "submitters", rolloutField, blessField)
		for _, name := range []string{"release", "cmdline", "job"} {
			l.text(join(p, name), l.get(p, e, name))
		}
		l.integer(join(p, "min_ram"), l.get(p, e, "min_ram"), 0, maxRAM)
		l.bless(p, e)
		number := l.integer(join(p, "number"), l.get(p, e, "number"), 1, maxInteger)
		if number >= newest {
			l.fail(join(p, "number"), "%d is not below %d, that of the release before it", number, newest)
		}
		newest = number
		if v, ok := e["submitters"]; ok {
			l.submitters(join(p, "submitters"), v)
		}
		if v, ok := e[rolloutField]; ok {
			l.rollout(join(p, rolloutField), v)
		}
	}
}

// readRollout reads a field rollout, which passed Lint; a missing one is nil.
func (d *Document) readRollout(v any) *Rollout {
	o, ok := v.(object)
	if !ok {
		return nil
	}
	r := &Rollout{Groups: texts(o["groups"]), Hold: texts(o["hold"]), NotBefore: d.date(o["not_before"])}
	if percent, ok := o["percent"].(int64); ok {
		n := int(percent)
		r.Percent = &n
	}
	return r
}

// readEarlier reads the earlier releases of r without their artifacts.
func (d *Document) readEarlier(r Release) (list []Release) {
	values, _ := d.extension()[earlierField].([]any)
	for _, v := range values {
		e := v.(object)
		bless, _ := e[blessField].(int64)
		list = append(list, Release{
			Repository: r.Repository, Channel: r.Channel, Arch: r.Arch, Number: r.Number, SignedAt: r.SignedAt, Expires: r.Expires,
			First: e["number"].(int64), Version: e["release"].(string), Cmdline: e["cmdline"].(string), MinRAM: e["min_ram"].(int64),
			Job: e["job"].(string), Submitters: readSubmitters(e["submitters"]), Rollout: d.readRollout(e[rolloutField]), Bless: bless,
		})
	}
	return list
}

// of returns the release that a target belongs to, and the role of the target in it: r, or the earlier
// one that the path names. path is relative to CHANNEL/ARCH/.
func (r *Release) of(path string) (owner *Release, role string, err error) {
	m := earlierGrammar.FindStringSubmatch(path)
	if len(r.Earlier) == 0 || m == nil {
		return r, path, nil
	}
	number, _ := strconv.ParseInt(m[1], 10, 64) // the grammar allows 16 digits
	for i := range r.Earlier {
		if r.Earlier[i].First != number {
			continue
		}
		if role = m[2]; m[3] != "" {
			role += "/" + m[3]
		}
		if earlierPath(number, role) != path || IsBootSet(role) {
			return nil, "", malformed("artifact %.80q: is not written as that of an earlier release", path)
		}
		return &r.Earlier[i], role, nil
	}
	return nil, "", malformed("artifact %.80q: is of release number %d, which the field earlier does not name", path, number)
}

// earlierPath is the path of an artifact of an earlier release, below CHANNEL/ARCH/. It has no further
// folder, so the delegations of every repository cover it.
func earlierPath(number int64, role string) string {
	return "earlier-" + strconv.FormatInt(number, 10) + "-" + strings.ReplaceAll(role, "/", "-")
}

// checkEarlier checks each earlier release, and that every machine that is in no held group takes one.
func (r Release) checkEarlier() error {
	for _, e := range r.Earlier {
		if err := e.check(); err != nil {
			return err
		}
	}
	all := r.All()
	if last := all[len(all)-1]; last.Rollout.Conditional() {
		return malformed("release %.64q: the last one of the manifest, and not for every machine; carry an earlier release that is, or release to all", last.Version)
	}
	return nil
}

// encodeEarlier returns the field earlier.
func (r Release) encodeEarlier() []any {
	var list []any
	for _, e := range r.Earlier {
		fields := object{"number": e.First, "release": e.Version, "cmdline": e.Cmdline, "min_ram": e.MinRAM, "job": e.Job}
		e.encodeBless(fields)
		if len(e.Submitters) > 0 {
			fields["submitters"] = e.Submitters
		}
		if e.Rollout != nil {
			fields[rolloutField] = e.Rollout.toSeconds()
		}
		list = append(list, fields)
	}
	return list
}

// encodeRollout adds the fields that say which machines take which release.
func (r Release) encodeRollout(fields object) {
	var critical []string
	if r.First > 0 && r.First != r.Number {
		fields["number"] = r.First
	}
	if r.FallbackFloor > 0 {
		fields["fallback_floor"] = r.FallbackFloor
	}
	if len(r.Earlier) > 0 {
		fields[earlierField], critical = r.encodeEarlier(), append(critical, earlierField)
	}
	if r.Rollout != nil {
		fields[rolloutField], critical = r.Rollout.toSeconds(), append(critical, rolloutField)
	}
	if critical != nil {
		fields["critical"] = critical
	}
}
