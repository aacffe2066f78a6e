package manifest

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
)

// Names of the roles that every repository has.
const (
	roleRoot      = "root"
	roleTargets   = "targets"
	roleSnapshot  = "snapshot"
	roleTimestamp = "timestamp"
)

var (
	channelGrammar = regexp.MustCompile(`^[a-z0-9][a-z0-9_-]{0,31}$`)
	archGrammar    = regexp.MustCompile(`^[a-z0-9][a-z0-9_]{0,15}$`)
	roleGrammar    = regexp.MustCompile(`^[a-z0-9][a-z0-9_-]{0,63}$`)
	fileGrammar    = regexp.MustCompile(`^([1-9][0-9]{0,15}\.)?[a-z0-9][a-z0-9_-]{0,63}\.json$`)
)

// RoleName returns the name of the delegated role of a channel and an architecture,
// CHANNEL-ARCH. A channel has up to 32 of a-z, 0-9, "_" and "-", an architecture up to 16 without
// "-", so that two pairs never have one name. Anything else wraps ErrMalformed.
func RoleName(channel, arch string) (string, error) {
	if !channelGrammar.MatchString(channel) {
		return "", malformed("channel %.40q: use a-z, 0-9, _ and -, at most 32, a letter or digit first", channel)
	}
	if !archGrammar.MatchString(arch) {
		return "", malformed("architecture %.40q: use a-z, 0-9 and _, at most 16, for example x86_64 or arm64", arch)
	}
	return channel + "-" + arch, nil
}

// SplitRole is the inverse of RoleName; ok is false for the name of another role.
func SplitRole(role string) (channel, arch string, ok bool) {
	i := strings.LastIndexByte(role, '-')
	if i < 0 {
		return "", "", false
	}
	_, err := RoleName(role[:i], role[i+1:])
	return role[:i], role[i+1:], err == nil
}

// FileName returns the name of a metadata file in a repository: VERSION.ROLE.json, or
// timestamp.json, the only one without a version in its name.
func FileName(role string, version int64) string {
	if role == roleTimestamp {
		return "timestamp.json"
	}
	return fmt.Sprintf("%d.%s.json", version, role)
}

// SplitFile returns the role and the version in the name of a metadata file; version is 0 when there is none.
func SplitFile(name string) (role string, version int64, ok bool) {
	if !fileGrammar.MatchString(name) {
		return "", 0, false
	}
	role = strings.TrimSuffix(name, ".json")
	if n, rest, found := strings.Cut(role, "."); found {
		version, _ = strconv.ParseInt(n, 10, 64) // the grammar allows digits only
		role = rest
	}
	return role, version, true
}
