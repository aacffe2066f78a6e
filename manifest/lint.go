package manifest

import (
	"crypto/sha256"
	"encoding/hex"
	"maps"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/theupdateframework/go-tuf/v2/metadata"
)

// A Kind is the kind of a metadata file.
type Kind string

// The kinds of metadata files. KindTargets is the top-level targets.json. KindRole is a
// delegated role with a release manifest, KindConfig the one with the settings of machines.
const (
	KindRoot      Kind = "root"
	KindTimestamp Kind = "timestamp"
	KindSnapshot  Kind = "snapshot"
	KindTargets   Kind = "targets"
	KindRole      Kind = "release"
	KindConfig    Kind = "config"
)

// Limits on the size of metadata files, in bytes.
const (
	MaxRoot      = 512 << 10
	maxTimestamp = 16 << 10
	MaxMetadata  = 1 << 20 // every other file
)

const (
	maxKeys    = 64   // key IDs of one role, and signatures of one file
	maxAllKeys = 1024 // keys of one file
	maxEntries = 1024 // delegations of targets.json, files of a snapshot
	extension  = "x-phaseboot"
	timeLayout = "2006-01-02T15:04:05Z"
)

var (
	hexGrammar  = regexp.MustCompile(`^([0-9a-f]{2})+$`)
	hex32       = regexp.MustCompile(`^[0-9a-f]{64}$`)
	hex64       = regexp.MustCompile(`^[0-9a-f]{128}$`)
	specGrammar = regexp.MustCompile(`^1\.[0-9]{1,4}(\.[0-9]{1,4})?$`)
)

// Max is the limit on the size of a file of this kind, in bytes.
func (k Kind) Max() int64 {
	switch k {
	case KindRoot:
		return MaxRoot
	case KindTimestamp:
		return maxTimestamp
	default:
		return MaxMetadata
	}
}

// Lint checks the form of a metadata file: its size is bounded, all JSON readers read it alike, and
// all required fields are there with the right type. go-tuf can then read it safely. Lint checks
// no signature. The error wraps ErrMalformed and names the JSON path.
func Lint(kind Kind, data []byte) error {
	_, _, err := lint(kind, data)
	return err
}

// lint is Lint, and returns the tree and the list that Document.Unknown describes.
func lint(kind Kind, data []byte) (tree object, unknown []string, err error) {
	if int64(len(data)) > kind.Max() {
		return nil, nil, malformed("%d bytes; %s metadata has at most %d", len(data), kind, kind.Max())
	}
	value, err := parseTree(data)
	if err != nil {
		return nil, nil, err
	}
	l := &linter{}
	top := l.object("", value)
	l.known("", top, "signed", "signatures")
	l.signatures(l.list("signatures", l.get("", top, "signatures")))
	signed := l.object("signed", l.get("", top, "signed"))
	l.common(kind, signed)
	if l.err == nil {
		l.body(kind, signed)
	}
	slices.Sort(l.unknown)
	return top, l.unknown, l.err
}

// A linter keeps the first error. After it, fail changes nothing.
type linter struct {
	err     error
	unknown []string
}

func (l *linter) fail(path, format string, args ...any) {
	if l.err == nil {
		l.err = malformed("%s: "+format, append([]any{at(path)}, args...)...)
	}
}

func (l *linter) body(kind Kind, signed object) {
	switch kind {
	case KindRoot:
		l.root(signed)
	case KindTimestamp:
		l.timestamp(signed)
	case KindSnapshot:
		l.snapshot(signed)
	case KindTargets:
		l.targets(signed)
	case KindRole:
		l.release(signed)
	case KindConfig:
		l.config(signed)
	default:
		l.fail("", "unknown kind of metadata %q", string(kind))
	}
}

func (l *linter) signatures(list []any) {
	if len(list) > maxKeys {
		l.fail("signatures", "%d signatures; at most %d are read", len(list), maxKeys)
	}
	seen := map[string]bool{}
	for i, v := range list {
		path := index("signatures", i)
		sig := l.object(path, v)
		l.known(path, sig, "keyid", "sig")
		id := l.match(join(path, "keyid"), l.get(path, sig, "keyid"), hex32, "64 lower-case hex digits")
		l.match(join(path, "sig"), l.get(path, sig, "sig"), hexGrammar, "lower-case hex digits")
		if seen[id] {
			l.fail(path, "a second signature by key %.8s…", id)
		}
		seen[id] = true
	}
}

// signedFields are the fields of the signed part that not all kinds have.
var signedFields = map[Kind][]string{
	KindRoot:      {"consistent_snapshot", "keys", "roles"},
	KindTimestamp: {"meta"},
	KindSnapshot:  {"meta"},
	KindTargets:   {"targets", "delegations"},
	KindRole:      {"targets", "delegations"},
	KindConfig:    {"targets", "delegations"},
}

// common checks the fields that all kinds have.
func (l *linter) common(kind Kind, signed object) {
	l.known("signed", signed, append(signedFields[kind], "_type", "spec_version", "version", "expires", extension)...)
	typ := string(kind)
	if kind == KindRole || kind == KindConfig {
		typ = metadata.TARGETS
	}
	if got := l.text("signed._type", l.get("signed", signed, "_type")); l.err == nil && got != typ {
		l.fail("signed._type", "is %.40q where %q is expected: this is another kind of file", got, typ)
	}
	l.match("signed.spec_version", l.get("signed", signed, "spec_version"), specGrammar, "a TUF version 1.x")
	l.integer("signed.version", l.get("signed", signed, "version"), 1, maxInteger)
	l.time("signed.expires", l.get("signed", signed, "expires"))
}

func (l *linter) root(signed object) {
	if v, ok := l.get("signed", signed, "consistent_snapshot").(bool); !ok || !v {
		l.fail("signed.consistent_snapshot", "is not true")
	}
	keys := l.keys("signed.keys", l.get("signed", signed, "keys"))
	roles := l.object("signed.roles", l.get("signed", signed, "roles"))
	names := []string{roleRoot, roleSnapshot, roleTargets, roleTimestamp}
	for _, name := range names {
		path := join("signed.roles", name)
		role := l.object(path, l.get("signed.roles", roles, name))
		l.known(path, role, "keyids", "threshold")
		l.authority(path, role, keys)
	}
	for _, name := range sorted(roles) {
		if !slices.Contains(names, name) {
			l.fail(join("signed.roles", name), "is not a role of a root")
		}
	}
	l.discovery("signed."+extension, l.extension(signed, "discovery", "dht"))
}

// keys checks a map of keys: Ed25519 only, each under its own key ID.
func (l *linter) keys(path string, v any) object {
	keys := l.object(path, v)
	if len(keys) > maxAllKeys {
		l.fail(path, "%d keys; at most %d are read", len(keys), maxAllKeys)
	}
	for _, id := range sorted(keys) {
		p := join(path, id)
		key := l.object(p, keys[id])
		l.known(p, key, "keytype", "scheme", "keyval")
		for _, name := range []string{"keytype", "scheme"} {
			if l.text(join(p, name), l.get(p, key, name)) != metadata.KeyTypeEd25519 {
				l.fail(join(p, name), "only %q is read", metadata.KeyTypeEd25519)
			}
		}
		val := l.object(join(p, "keyval"), l.get(p, key, "keyval"))
		l.known(join(p, "keyval"), val, "public")
		public := l.match(join(p, "keyval.public"), l.get(join(p, "keyval"), val, "public"), hex32, "64 lower-case hex digits")
		if l.err == nil && (len(key) != 3 || len(val) != 1 || id != keyID(public)) {
			l.fail(p, "the key id is not the hash of the key")
		}
	}
	return keys
}

// keyID returns the key ID of a public key in hex: the SHA-256 of its canonical JSON. Every Ed25519
// key has this form.
func keyID(public string) string {
	sum := sha256.Sum256([]byte(`{"keytype":"ed25519","keyval":{"public":"` + public + `"},"scheme":"ed25519"}`))
	return hex.EncodeToString(sum[:])
}

// authority checks the key IDs and the threshold of a role.
func (l *linter) authority(path string, role, keys object) {
	ids := l.list(join(path, "keyids"), l.get(path, role, "keyids"))
	if len(ids) == 0 || len(ids) > maxKeys {
		l.fail(join(path, "keyids"), "%d key ids; there must be 1 to %d", len(ids), maxKeys)
	}
	seen := map[string]bool{}
	for i, v := range ids {
		p := index(join(path, "keyids"), i)
		id := l.text(p, v)
		if _, ok := keys[id]; !ok {
			l.fail(p, "key %.8q… is not among the keys", id)
		}
		if seen[id] {
			l.fail(p, "key %.8s… is named twice", id)
		}
		seen[id] = true
	}
	l.integer(join(path, "threshold"), l.get(path, role, "threshold"), 1, int64(len(ids)))
}

func (l *linter) timestamp(signed object) {
	meta := l.object("signed.meta", l.get("signed", signed, "meta"))
	l.fileMeta("signed.meta", meta, "snapshot.json")
	if len(meta) != 1 {
		l.fail("signed.meta", "names %d files where only snapshot.json is expected", len(meta))
	}
	if at, ok := l.extension(signed, "signed_at")["signed_at"]; ok {
		l.signedAt(join("signed."+extension, "signed_at"), at, signed)
	}
}

func (l *linter) snapshot(signed object) {
	l.extension(signed)
	meta := l.object("signed.meta", l.get("signed", signed, "meta"))
	l.get("signed.meta", meta, "targets.json")
	if len(meta) > maxEntries {
		l.fail("signed.meta", "%d files; at most %d are read", len(meta), maxEntries)
	}
	for _, name := range sorted(meta) {
		if role, ok := strings.CutSuffix(name, ".json"); !ok || !roleGrammar.MatchString(role) {
			l.fail(join("signed.meta", name), "is not the name of a metadata file")
		}
		l.fileMeta("signed.meta", meta, name)
	}
}

// extension checks the names of the fields in x-phaseboot and the repository ID in it. It returns
// the field, nil when it is not there.
func (l *linter) extension(signed object, names ...string) object {
	v, ok := signed[extension]
	if !ok {
		return nil
	}
	path := "signed." + extension
	x := l.object(path, v)
	l.known(path, x, append(names, repositoryField)...)
	if id, ok := x[repositoryField]; ok {
		l.match(join(path, repositoryField), id, repositoryGrammar, "a repository ID of 32 lower-case hex digits")
	}
	return x
}

// fileMeta checks one entry of a meta map. TUF allows length and hashes to be missing. Lint requires
// them: they refuse a mix of files from two releases.
func (l *linter) fileMeta(path string, meta object, name string) {
	p := join(path, name)
	file := l.object(p, l.get(path, meta, name))
	l.known(p, file, "version", "length", "hashes")
	l.integer(join(p, "version"), l.get(p, file, "version"), 1, maxInteger)
	l.integer(join(p, "length"), l.get(p, file, "length"), 1, MaxMetadata)
	l.hashes(join(p, "hashes"), l.get(p, file, "hashes"))
}

func (l *linter) hashes(path string, v any) {
	hashes := l.object(path, v)
	l.get(path, hashes, "sha256")
	for _, name := range sorted(hashes) {
		switch name {
		case "sha256":
			l.match(join(path, name), hashes[name], hex32, "64 lower-case hex digits")
		case "sha512":
			l.match(join(path, name), hashes[name], hex64, "128 lower-case hex digits")
		default:
			l.fail(join(path, name), "only sha256 and sha512 are read")
		}
	}
}

// time checks a date in the form of TUF: whole seconds in UTC.
func (l *linter) time(path string, v any) time.Time {
	s := l.text(path, v)
	t, err := time.Parse(timeLayout, s)
	if err != nil || t.Format(timeLayout) != s {
		l.fail(path, "%.40q is not a date like 2006-01-02T15:04:05Z", s)
	}
	return t
}

// signedAt checks a date of signing: it must not be after the expiry date.
func (l *linter) signedAt(path string, v any, signed object) {
	if t := l.time(path, v); t.After(l.time("signed.expires", signed["expires"])) {
		l.fail(path, "is later than signed.expires")
	}
}

func sorted(obj object) []string { return slices.Sorted(maps.Keys(obj)) }
