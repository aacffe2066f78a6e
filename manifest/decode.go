package manifest

import (
	"regexp"
	"slices"
	"strings"

	"github.com/phaseboot/phaseboot/cas"
)

// Limits on a release.
const (
	maxArtifact  = 64 << 30 // bytes of one artifact
	maxCmdline   = 1500     // bytes
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

// decode reads a release manifest as the release of channel and arch. Lint has checked which fields
// there are, their types and their ranges. decode refuses paths of another channel (ErrPath), and
// an unknown artifact role, a missing kernel or initramfs, an unknown form of CID or chunker, and a
// command line outside the grammar (ErrMalformed).
func (d *Document) decode(channel, arch string) (Release, error) {
	r, err := d.fields()
	if err != nil {
		return Release{}, err
	}
	if r.Channel != channel || r.Arch != arch {
		return Release{}, refuse(ErrPath, "a release of %.40q for %.40q where %q for %q is expected", r.Channel, r.Arch, channel, arch)
	}
	targets, prefix := d.signed["targets"].(object), targetPath(channel, arch, "")
	r.Artifacts = make([]Artifact, 0, len(targets))
	for _, path := range sorted(targets) {
		name, ok := strings.CutPrefix(path, prefix)
		if !ok {
			return Release{}, refuse(ErrPath, "%.80q is not under %q, the only place for this release's files", path, prefix)
		}
		owner, role, err := r.of(name)
		if err != nil {
			return Release{}, err
		}
		a, err := decodeArtifact(role, targets[path].(object))
		if err != nil {
			return Release{}, err
		}
		owner.Artifacts = append(owner.Artifacts, a)
	}
	if err := r.check(); err != nil {
		return r, err
	}
	return r, r.checkEarlier()
}

// fields reads a release manifest without its artifacts. It refuses one with a critical field that
// this program does not read.
func (d *Document) fields() (Release, error) {
	x := d.extension()
	for _, name := range texts(x["critical"]) {
		if !slices.Contains(releaseFieldNames, name) {
			return Release{}, malformed("signed.%s: needs a reader that knows %.40q; update this program", extension, name)
		}
	}
	r := Release{
		Repository: d.Repository(), Channel: x["channel"].(string), Arch: x["arch"].(string),
		Version: x["release"].(string), Number: d.Version(), Cmdline: x["cmdline"].(string), MinRAM: x["min_ram"].(int64),
		SignedAt: d.SignedAt(), Expires: d.Expires(), Job: x["job"].(string),
		Submitters: readSubmitters(x["submitters"]), Rollout: d.readRollout(x[rolloutField]),
	}
	r.Bless, _ = x[blessField].(int64)
	r.First, _ = x["number"].(int64)
	if r.First == r.Number {
		r.First = 0
	}
	r.FallbackFloor, _ = x["fallback_floor"].(int64)
	r.Earlier = d.readEarlier(r)
	return r, nil
}

func decodeArtifact(role string, target object) (Artifact, error) {
	custom := target["custom"].(object)
	if is := custom["role"].(string); is != role {
		return Artifact{}, malformed("artifact %.80q: its role is given as %.80q", role, is)
	}
	text := custom["cid"].(string)
	c, err := cas.ParseCID(text)
	if err != nil {
		return Artifact{}, malformed("artifact %.80q: %v", role, err)
	}
	chunker := custom["chunker"].(string)
	switch {
	case c.String() != text:
		return Artifact{}, malformed("artifact %.80q: CID %.80q must be written %s", role, text, c)
	case !knownRole(role):
		return Artifact{}, malformed("artifact %.80q: only kernel, initramfs, rootfs, dtb/NAME, job/NAME.wasm, boot/kernel and boot/initramfs are known", role)
	case !chunkerGrammar.MatchString(chunker):
		return Artifact{}, malformed("artifact %.80q: %.80q is not the name of a chunker", role, chunker)
	}
	sum := target["hashes"].(object)["sha256"].(string)
	return Artifact{Role: role, Length: target["length"].(int64), SHA256: sum, CID: c, Chunker: chunker}, nil
}

func knownRole(role string) bool {
	return role == RoleKernel || role == RoleInitramfs || role == RoleRootfs || IsBootSet(role) || dtbGrammar.MatchString(role) || jobGrammar.MatchString(role)
}

// check checks the fields of the release, and its artifacts together.
func (r Release) check() error {
	if len(r.Artifacts) > maxArtifacts {
		return malformed("release %.64q: %d artifacts; at most %d are read", r.Version, len(r.Artifacts), maxArtifacts)
	}
	for _, role := range []string{RoleKernel, RoleInitramfs} {
		if _, ok := r.Artifact(role); !ok {
			return malformed("release %.64q: no %s", r.Version, role)
		}
	}
	_, kernel := r.Artifact(RoleBootKernel)
	_, initramfs := r.Artifact(RoleBootInitramfs)
	if kernel != initramfs {
		return malformed("release %.64q: a boot set is %s and %s, and one is missing", r.Version, RoleBootKernel, RoleBootInitramfs)
	}
	if _, ok := r.Artifact(r.Job); r.Job != "" && (!ok || !jobGrammar.MatchString(r.Job)) {
		return malformed("release %.64q: the job %.80q is not one of its artifacts", r.Version, r.Job)
	}
	if !versionGrammar.MatchString(r.Version) {
		return malformed("release %.80q: use letters, digits and . _ + ~ -, at most 64", r.Version)
	}
	if err := r.checkSubmitters(); err != nil {
		return err
	}
	return checkCmdline(r.Cmdline)
}

// checkCmdline reports whether s may be a release's kernel command line: printable
// ASCII, at most maxCmdline bytes, no "--" (the kernel hands what follows to init),
// and no word phase.release=, which the boot client adds. An error wraps ErrMalformed.
func checkCmdline(s string) error {
	switch {
	case len(s) > maxCmdline:
		return malformed("command line: %d bytes; at most %d", len(s), maxCmdline)
	case !cmdlineGrammar.MatchString(s):
		return malformed("command line %.80q: only printable ASCII on one line", s)
	case strings.Contains(s, "--"):
		return malformed("command line %.80q: \"--\" is not allowed", s)
	case strings.Contains(s, "phase.release="):
		return malformed("command line %.80q: phase.release is added by the boot client", s)
	}
	return nil
}
