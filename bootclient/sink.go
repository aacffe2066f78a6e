package bootclient

import (
	"github.com/phaseboot/phaseboot/bootclient/fetch"
	"github.com/phaseboot/phaseboot/bootclient/report"
	"github.com/phaseboot/phaseboot/manifest"
)

// A Sink is where verified bytes go: a folder on a host, sealed memory on the
// machine that boots. Run calls Open once for each artifact, one after another,
// then writes to all targets at once, then calls either Commit or Abort, once.
type Sink interface {
	fetch.Sink
	// Commit is called after every target has the signed length and sha256; for a
	// SelfVerifier, Commit itself compares the sha256. Only now may anything appear
	// under its final name. The report is complete but for what Commit itself takes.
	Commit(v *manifest.Verified, r *report.Report) error
	// Abort drops everything. It is also called after a Commit that failed.
	Abort()
}
