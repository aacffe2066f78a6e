package bootclient

import (
	"io"

	"github.com/phaseboot/phaseboot/bootclient/report"
	"github.com/phaseboot/phaseboot/manifest"
)

// A Sink is where verified bytes go: a folder on a host, sealed memory on the
// machine that boots. Run calls Open once for each artifact, one after another,
// then writes to all targets at once, then calls either Commit or Abort, once.
type Sink interface {
	// Open makes room for size bytes of the artifact of a role (kernel,
	// initramfs, rootfs, dtb/NAME, job/NAME.wasm). A nil Target and a nil
	// error say that this artifact is not wanted: it is not fetched.
	Open(role string, size int64) (Target, error)
	// Commit is called after every target has the signed length and sha256; for a
	// SelfVerifier, Commit itself compares the sha256. Only now may anything appear
	// under its final name. The report is complete but for what Commit itself takes.
	Commit(v *manifest.Verified, r *report.Report) error
	// Abort drops everything. It is also called after a Commit that failed.
	Abort()
}

// A Planner is a Sink that checks a whole release before the first Open. An error ends the fetch.
type Planner interface {
	Plan(r manifest.Release) error
}

// A SelfVerifier is a Sink whose Commit compares the sha256 of every artifact with the manifest.
// Run does not hash the artifacts of such a Sink while they arrive.
type SelfVerifier interface {
	VerifiesSHA256()
}

// A Target takes the bytes of one artifact, at offsets, from several
// goroutines, each byte range at least once. Reading returns what was written.
type Target interface {
	io.WriterAt
	io.ReaderAt
}
