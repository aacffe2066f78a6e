package manifest

import (
	"errors"
	"fmt"
	"time"

	"github.com/ipfs/go-cid"
)

// Every refusal of metadata wraps ErrUntrusted and one of the reasons below, or ErrMalformed.
var (
	ErrUntrusted = errors.New("untrusted")

	ErrSignature   = fmt.Errorf("%w: signatures", ErrUntrusted) // too few valid signatures by the role's keys
	ErrExpired     = fmt.Errorf("%w: expired", ErrUntrusted)
	ErrRollback    = fmt.Errorf("%w: older than what was seen before", ErrUntrusted)
	ErrMixAndMatch = fmt.Errorf("%w: not the file that the snapshot names", ErrUntrusted)
	ErrPath        = fmt.Errorf("%w: a path outside the delegation", ErrUntrusted)
	ErrRepository  = fmt.Errorf("%w: of another repository", ErrUntrusted)

	// ErrMalformed says that bytes are not metadata of ours: truncated, not JSON, or refused by
	// Lint.
	ErrMalformed = errors.New("malformed metadata")
)

// Roles of artifacts. Device trees are "dtb/NAME", jobs "job/NAME.wasm". The boot set, which renews the stick of a
// machine, is RoleBootKernel and RoleBootInitramfs.
const (
	RoleKernel    = "kernel"
	RoleInitramfs = "initramfs"
	RoleRootfs    = "rootfs"

	RoleBootKernel    = "boot/kernel"
	RoleBootInitramfs = "boot/initramfs"
)

// An Artifact is one signed file of a release.
type Artifact struct {
	Role    string  `json:"role"`   // kernel, initramfs, rootfs, dtb/NAME, job/NAME.wasm, boot/kernel, boot/initramfs
	Length  int64   `json:"length"` // bytes
	SHA256  string  `json:"sha256"` // 64 lower-case hex digits
	CID     cid.Cid `json:"cid"`
	Chunker string  `json:"chunker"`
}

// A Release is the content of one delegated role, as plain data.
type Release struct {
	Channel    string     `json:"channel"`
	Arch       string     `json:"arch"`
	Version    string     `json:"release"`      // the release's version string
	Number     int64      `json:"role_version"` // TUF version of the role
	Cmdline    string     `json:"cmdline"`
	MinRAM     int64      `json:"min_ram"` // MiB, 0 for no requirement
	SignedAt   time.Time  `json:"signed_at"`
	Expires    time.Time  `json:"expires"`
	Job        string     `json:"job"`                  // role of the artifact to run as job, "" for none
	Artifacts  []Artifact `json:"artifacts"`            // sorted by role
	Repository string     `json:"repository,omitempty"` // ID, "" when the repository has none

	// First is the version of the role that first had this content, 0 for Number; ContentNumber is the one of
	// the two that counts.
	First         int64     `json:"number,omitempty"`
	FallbackFloor int64     `json:"fallback_floor,omitempty"` // lowest content number that a machine may fall back to, 0 for any
	Rollout       *Rollout  `json:"rollout,omitempty"`        // nil for every machine
	Earlier       []Release `json:"earlier,omitempty"`        // at most MaxEarlier, the newest first, for the machines that this one does not include

	// Bless is how long the target has to bless its start, in seconds; 0: it does not know how.
	Bless int64 `json:"bless,omitempty"`

	// Submitters may submit jobs over the network. With none, machines accept no job from it.
	Submitters []Submitter `json:"submitters,omitempty"`
}

// Artifact returns the artifact of a role.
func (r Release) Artifact(role string) (Artifact, bool) {
	for _, a := range r.Artifacts {
		if a.Role == role {
			return a, true
		}
	}
	return Artifact{}, false
}

// IsBootSet reports whether a role is of the boot set. A boot does not load these artifacts.
func IsBootSet(role string) bool { return role == RoleBootKernel || role == RoleBootInitramfs }

// maxAhead is how far the clock of a signer may be ahead of the clock that checks the release.
const maxAhead = 10 * time.Minute

// CheckSignedAt refuses an unpublished release whose date of signing is more than ten minutes
// after now: machines would move their reference time to that date, and metadata that expire
// before it would count as expired. The error wraps ErrUntrusted.
func (r Release) CheckSignedAt(now time.Time) error {
	if r.SignedAt.Sub(now) <= maxAhead {
		return nil
	}
	return refuse(ErrUntrusted, "release %.64q: signed at %s, and it is %s: machines would take that date for the time, and what ends before it for expired; set the clock right, the signer's or this one, and sign the release again if it was the signer's",
		r.Version, stamp(r.SignedAt), stamp(now))
}
