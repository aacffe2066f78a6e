package manifest

import (
	"crypto/ed25519"
	"encoding/hex"
	"encoding/json"
	"regexp"
	"slices"
)

// MaxSubmitters is how many submitters a release may name.
const MaxSubmitters = 64

var submitterGrammar = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._@+-]{0,63}$`)

// A Submitter is a key that may submit jobs over the network to machines that run a release, and the
// policy for its jobs. Its JSON, in the signed manifest and elsewhere, has the key in hex:
//
//	{"name": "ci", "key": "64 hex digits", "jobs": 4,
//	 "limits": {"memory_bytes": 268435456, "timeout_ms": 30000, "cpu_ms": 30000, "output_bytes": 65536},
//	 "grants": {"stdin": true, "scratch_bytes": 16777216, "artifacts": ["rootfs"]}}
//
// A reader ignores fields that it does not know. So all grants are positive: a reader that does not know
// one gives less. A field that takes something away must be listed in critical.
type Submitter struct {
	Name   string            // for people; no two of a release are equal
	Key    ed25519.PublicKey // no two of a release are equal
	Jobs   int               // how many jobs it may have queued and running at a time, at least 1
	Limits SubmitterLimits
	Grants SubmitterGrants
}

// SubmitterLimits are the highest limits that a job of a submitter may ask for, each at least 1. A
// machine may have lower ones.
type SubmitterLimits struct {
	Memory  int64 `json:"memory_bytes"`
	Timeout int64 `json:"timeout_ms"` // wall time
	CPU     int64 `json:"cpu_ms"`
	Output  int64 `json:"output_bytes"` // stdout and stderr together
}

// SubmitterGrants are the capabilities that a job of a submitter may ask for. The zero value is none.
type SubmitterGrants struct {
	Stdin     bool     `json:"stdin,omitempty"`
	Scratch   int64    `json:"scratch_bytes,omitempty"` // largest size of the scratch folder
	Artifacts []string `json:"artifacts,omitempty"`     // roles of the release
	Clock     bool     `json:"clock,omitempty"`
	Random    bool     `json:"random,omitempty"`
}

// submitterFields is a Submitter in JSON.
type submitterFields struct {
	Name   string          `json:"name"`
	Key    string          `json:"key"`
	Jobs   int             `json:"jobs"`
	Limits SubmitterLimits `json:"limits"`
	Grants SubmitterGrants `json:"grants"`
}

// MarshalJSON implements json.Marshaler.
func (s Submitter) MarshalJSON() ([]byte, error) {
	return json.Marshal(submitterFields{s.Name, hex.EncodeToString(s.Key), s.Jobs, s.Limits, s.Grants})
}

// UnmarshalJSON implements json.Unmarshaler. A key that is not 64 lower-case hex digits wraps ErrMalformed.
func (s *Submitter) UnmarshalJSON(data []byte) error {
	var f submitterFields
	if err := json.Unmarshal(data, &f); err != nil {
		return err
	}
	if !hex32.MatchString(f.Key) {
		return malformed("submitter %.64q: the key %.80q is not 64 lower-case hex digits", f.Name, f.Key)
	}
	public, err := hex.DecodeString(f.Key)
	*s = Submitter{f.Name, public, f.Jobs, f.Limits, f.Grants}
	return err
}

// Submitter returns the submitter with a key.
func (r Release) Submitter(key ed25519.PublicKey) (Submitter, bool) {
	for _, s := range r.Submitters {
		if s.Key.Equal(key) {
			return s, true
		}
	}
	return Submitter{}, false
}

// submitters checks the field submitters of a release. Numbers have no upper bound of their own, so that
// a machine boots a release whose policy allows more than the machine can give.
func (l *linter) submitters(path string, v any) {
	list := l.list(path, v)
	if len(list) == 0 || len(list) > MaxSubmitters {
		l.fail(path, "%d submitters; there must be 1 to %d", len(list), MaxSubmitters)
	}
	names, keys := map[string]bool{}, map[string]bool{}
	for i, v := range list {
		p := index(path, i)
		s := l.object(p, v)
		l.known(p, s, "name", "key", "jobs", "limits", "grants")
		name := l.match(join(p, "name"), l.get(p, s, "name"), submitterGrammar, "a name of letters, digits and . _ @ + -, at most 64")
		key := l.match(join(p, "key"), l.get(p, s, "key"), hex32, "64 lower-case hex digits")
		if names[name] || keys[key] {
			l.fail(p, "the name %q or the key %.8s… is named twice", name, key)
		}
		names[name], keys[key] = true, true
		l.integer(join(p, "jobs"), l.get(p, s, "jobs"), 1, 1<<31-1)
		l.submitterLimits(join(p, "limits"), l.object(join(p, "limits"), l.get(p, s, "limits")))
		l.submitterGrants(join(p, "grants"), l.object(join(p, "grants"), l.get(p, s, "grants")))
	}
}

func (l *linter) submitterLimits(path string, limits object) {
	fields := []string{"memory_bytes", "timeout_ms", "cpu_ms", "output_bytes"}
	l.known(path, limits, fields...)
	for _, name := range fields {
		l.integer(join(path, name), l.get(path, limits, name), 1, maxInteger)
	}
}

func (l *linter) submitterGrants(path string, grants object) {
	l.known(path, grants, "stdin", "scratch_bytes", "artifacts", "clock", "random")
	for _, name := range []string{"stdin", "clock", "random"} {
		if v, ok := grants[name]; ok {
			typed[bool](l, join(path, name), v, "true or false")
		}
	}
	if v, ok := grants["scratch_bytes"]; ok {
		l.integer(join(path, "scratch_bytes"), v, 0, maxInteger)
	}
	v, ok := grants["artifacts"]
	if !ok {
		return
	}
	path = join(path, "artifacts")
	list := l.list(path, v)
	if len(list) > maxArtifacts {
		l.fail(path, "%d roles; at most %d are read", len(list), maxArtifacts)
	}
	seen := map[string]bool{}
	for i, v := range list {
		role := l.text(index(path, i), v)
		if seen[role] {
			l.fail(index(path, i), "%.80q is named twice", role)
		}
		seen[role] = true
	}
}

// readSubmitters reads the field submitters of a release, which passed Lint; a missing one is nil.
func readSubmitters(v any) (list []Submitter) {
	values, _ := v.([]any)
	for _, v := range values {
		s := v.(object)
		key, _ := hex.DecodeString(s["key"].(string)) // Lint accepts 64 hex digits only
		limits, grants := s["limits"].(object), s["grants"].(object)
		list = append(list, Submitter{
			Name: s["name"].(string), Key: key, Jobs: int(s["jobs"].(int64)),
			Limits: SubmitterLimits{
				Memory: limits["memory_bytes"].(int64), Timeout: limits["timeout_ms"].(int64),
				CPU: limits["cpu_ms"].(int64), Output: limits["output_bytes"].(int64),
			},
			Grants: readGrants(grants),
		})
	}
	return list
}

func readGrants(grants object) (g SubmitterGrants) {
	g.Stdin, _ = grants["stdin"].(bool)
	g.Scratch, _ = grants["scratch_bytes"].(int64)
	g.Artifacts = texts(grants["artifacts"])
	g.Clock, _ = grants["clock"].(bool)
	g.Random, _ = grants["random"].(bool)
	return g
}

// checkSubmitters refuses a grant of an artifact that the release does not have.
func (r Release) checkSubmitters() error {
	for _, s := range r.Submitters {
		for _, role := range s.Grants.Artifacts {
			if _, ok := r.Artifact(role); !ok {
				return malformed("release %.64q: submitter %.64q may read %.80q, which is not one of the artifacts", r.Version, s.Name, role)
			}
		}
	}
	return nil
}

// cloneSubmitters copies a list of submitters with all that it refers to.
func cloneSubmitters(list []Submitter) []Submitter {
	list = slices.Clone(list)
	for i := range list {
		list[i].Key = slices.Clone(list[i].Key)
		list[i].Grants.Artifacts = slices.Clone(list[i].Grants.Artifacts)
	}
	return list
}
