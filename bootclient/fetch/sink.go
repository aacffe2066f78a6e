package fetch

import (
	"io"
	"os"

	"github.com/phaseboot/phaseboot/manifest"
)

// A Sink is the part of a sink that a fetch uses.
type Sink interface {
	// Open makes room for size bytes of the artifact of a role (kernel,
	// initramfs, rootfs, dtb/NAME, job/NAME.wasm, boot/NAME). A nil Target and a nil
	// error say that this artifact is not wanted: it is not fetched.
	Open(role string, size int64) (Target, error)
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

// An earlierSink is a sink that may have files of an earlier release. They are one more
// untrusted source: each leaf is verified by its CID.
type earlierSink interface {
	// Earlier opens the earlier file of a role, nil for none.
	Earlier(role string) *os.File
	// Folder is the name of this source in the report.
	Folder() string
}
