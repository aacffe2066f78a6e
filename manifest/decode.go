package manifest

import (
	"encoding/json"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/phaseboot/phaseboot/cas"
	"github.com/theupdateframework/go-tuf/v2/metadata"
)

// Limits on a release.
const (
	MaxArtifact  = 64 << 30 // bytes of one artifact
	MaxCmdline   = 1500     // bytes
	maxArtifacts = 256
	maxRAM       = 1 << 24 // MiB
)

var (
	dtbGrammar     = regexp.MustCompile(`^dtb/[A-Za-z0-9][A-Za-z0-9._+,-]{0,127}$`)
	jobGrammar     = regexp.MustCompile(`^job/[A-Za-z0-9][A-Za-z0-9._+-]{0,121}\.wasm$`)
	versionGrammar = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._+~-]{0,63}$`)
	chunkerGrammar = regexp.MustCompile(`^[a-z0-9][a-z0-9.-]{0,63}$`)
	cmdlineGrammar = regexp.MustCompile(`^[ -~]*$`)
)

// Decode reads a delegated role as the release of channel and arch. It refuses paths of another
// channel (ErrPath), and an unknown artifact role, a missing kernel or initramfs, an unknown form
// of CID or chunker, and a command line outside the grammar (ErrMalformed). It checks no
// signature: only Verify returns a release that may be run.
func Decode(role *metadata.Metadata[metadata.TargetsType], channel, arch string) (Release, error) {
	if _, err := RoleName(channel, arch); err != nil {
		return Release{}, err
	}
	if role.Signed.Delegations != nil {
		return Release{}, malformed("signed.delegations: a release cannot delegate")
	}
	r, err := decodeFields(role.Signed.UnrecognizedFields[extension])
	if err != nil {
		return Release{}, err
	}
	if r.Channel != channel || r.Arch != arch {
		return Release{}, refuse(ErrPath, "a release of %.40q for %.40q where %q for %q is expected", r.Channel, r.Arch, channel, arch)
	}
	r.Number, r.Expires = role.Signed.Version, role.Signed.Expires.UTC()
	if r.Number < 1 || r.Number > maxInteger {
		return Release{}, malformed("signed.version: %d is not within 1 and 2^53", r.Number)
	}
	if r.Artifacts, err = decodeArtifacts(role.Signed.Targets, targetPath(channel, arch, "")); err != nil {
		return Release{}, err
	}
	return r, r.check()
}

// decodeFields reads the field x-phaseboot of a role.
func decodeFields(field any) (Release, error) {
	var f releaseFields
	if field == nil {
		return Release{}, malformed("signed.%s: is missing: this is no release manifest", extension)
	}
	data, err := json.Marshal(field)
	if err == nil {
		err = json.Unmarshal(data, &f)
	}
	if err != nil {
		return Release{}, malformed("signed.%s: %v", extension, err)
	}
	for _, name := range f.Critical {
		if !slices.Contains(releaseFieldNames, name) {
			return Release{}, malformed("signed.%s: needs a reader that knows %.40q; update this program", extension, name)
		}
	}
	at, err := time.Parse(timeLayout, f.SignedAt)
	if err != nil {
		return Release{}, malformed("signed.%s.signed_at: %.40q is not a date like 2006-01-02T15:04:05Z", extension, f.SignedAt)
	}
	return Release{
		Repository: f.Repository, Channel: f.Channel, Arch: f.Arch, Version: f.Release, Cmdline: f.Cmdline,
		MinRAM: f.MinRAM, SignedAt: at, Job: f.Job,
	}, nil
}

func decodeArtifacts(targets map[string]*metadata.TargetFiles, prefix string) ([]Artifact, error) {
	if len(targets) > maxArtifacts {
		return nil, malformed("signed.targets: %d artifacts; at most %d are read", len(targets), maxArtifacts)
	}
	list := make([]Artifact, 0, len(targets))
	for path, target := range targets {
		role, ok := strings.CutPrefix(path, prefix)
		if !ok {
			return nil, refuse(ErrPath, "%.80q is not under %q, the only place for this release's files", path, prefix)
		}
		a, err := decodeArtifact(role, target)
		if err != nil {
			return nil, err
		}
		list = append(list, a)
	}
	sortArtifacts(list)
	return list, nil
}

func decodeArtifact(role string, target *metadata.TargetFiles) (Artifact, error) {
	if target == nil || target.Custom == nil {
		return Artifact{}, malformed("artifact %.80q: custom is missing", role)
	}
	var f artifactFields
	if err := json.Unmarshal(*target.Custom, &f); err != nil {
		return Artifact{}, malformed("artifact %.80q: custom: %v", role, err)
	}
	if f.Role != role {
		return Artifact{}, malformed("artifact %.80q: its role is given as %.80q", role, f.Role)
	}
	c, err := cas.ParseCID(f.CID)
	if err != nil {
		return Artifact{}, malformed("artifact %.80q: %v", role, err)
	}
	if c.String() != f.CID {
		return Artifact{}, malformed("artifact %.80q: CID %.80q must be written %s", role, f.CID, c)
	}
	a := Artifact{Role: role, Length: target.Length, SHA256: target.Hashes["sha256"].String(), CID: c, Chunker: f.Chunker}
	return a, a.check()
}

func (a Artifact) check() error {
	switch {
	case !knownRole(a.Role):
		return malformed("artifact %.80q: only kernel, initramfs, rootfs, dtb/NAME and job/NAME.wasm are known", a.Role)
	case a.Length < 1 || a.Length > MaxArtifact:
		return malformed("artifact %.80q: a length of %d bytes; there must be 1 to %d", a.Role, a.Length, int64(MaxArtifact))
	case !hex32.MatchString(a.SHA256):
		return malformed("artifact %.80q: no sha256", a.Role)
	case !chunkerGrammar.MatchString(a.Chunker):
		return malformed("artifact %.80q: %.80q is not the name of a chunker", a.Role, a.Chunker)
	}
	return nil
}

func knownRole(role string) bool {
	switch role {
	case RoleKernel, RoleInitramfs, RoleRootfs:
		return true
	}
	return dtbGrammar.MatchString(role) || jobGrammar.MatchString(role)
}

// check checks the fields of the release, and its artifacts together.
func (r Release) check() error {
	for _, role := range []string{RoleKernel, RoleInitramfs} {
		if _, ok := r.Artifact(role); !ok {
			return malformed("release %.64q: no %s", r.Version, role)
		}
	}
	if _, ok := r.Artifact(r.Job); r.Job != "" && (!ok || !jobGrammar.MatchString(r.Job)) {
		return malformed("release %.64q: the job %.80q is not one of its artifacts", r.Version, r.Job)
	}
	switch {
	case !versionGrammar.MatchString(r.Version):
		return malformed("release %.80q: use letters, digits and . _ + ~ -, at most 64", r.Version)
	case r.MinRAM < 0 || r.MinRAM > maxRAM:
		return malformed("release %q: min_ram %d MiB is not within 0 and %d", r.Version, r.MinRAM, maxRAM)
	case r.SignedAt.After(r.Expires):
		return malformed("release %q: signed at %s, after its end %s", r.Version, stamp(r.SignedAt), stamp(r.Expires))
	}
	return checkCmdline(r.Cmdline)
}

// checkCmdline reports whether s may be a release's kernel command line: printable
// ASCII, at most MaxCmdline bytes, no "--" (the kernel hands what follows to init),
// and no word phase.release=, which the boot client adds. An error wraps ErrMalformed.
func checkCmdline(s string) error {
	switch {
	case len(s) > MaxCmdline:
		return malformed("command line: %d bytes; at most %d", len(s), MaxCmdline)
	case !cmdlineGrammar.MatchString(s):
		return malformed("command line %.80q: only printable ASCII on one line", s)
	case strings.Contains(s, "--"):
		return malformed("command line %.80q: \"--\" is not allowed", s)
	case strings.Contains(s, "phase.release="):
		return malformed("command line %.80q: phase.release is added by the boot client", s)
	}
	return nil
}
