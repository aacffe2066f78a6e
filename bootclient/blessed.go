package bootclient

import (
	"errors"
	"fmt"
	"slices"

	"github.com/ipfs/go-cid"

	"github.com/phaseboot/phaseboot/bootclient/report"
	"github.com/phaseboot/phaseboot/bootclient/resolve"
	"github.com/phaseboot/phaseboot/manifest"
)

// MaxTries is how often a release is started without a blessing before an older one is booted.
const MaxTries = 3

// A Blessed is a release that has started on this machine, as its target has said.
type Blessed struct {
	Content  string // as manifest.Release.Content
	Manifest []byte // a manifest that has the release; nil if the machine has kept none
}

// errNoneBlessed is the error for a machine on which no other release has started.
var errNoneBlessed = errors.New("no other release has started on this machine")

// starts returns how often a release was started without a blessing, and whether it was ever blessed.
func (c Config) starts(r manifest.Release) (n int, blessed bool) {
	if c.Starts == nil {
		return 0, false
	}
	return c.Starts(r)
}

// blessed returns the newest release that has started on this machine, in place of the one of v. The newest
// manifest judges it: its floor, its keys, and its list of releases.
func (c Config) blessed(v *manifest.Verified) (*manifest.Verified, error) {
	reason := errNoneBlessed
	for _, b := range c.Blessed {
		if b.Content == v.Release().Content() {
			continue
		}
		older, err := v.Fallback(b.Content, b.Manifest)
		switch {
		case err != nil:
		case c.avoids(older):
			err = fmt.Errorf("release %.80q: %w", older.Release().Version, errAvoided)
		default:
			return older, nil
		}
		if errors.Is(reason, errNoneBlessed) {
			reason = err
		}
	}
	return nil, reason
}

// keptRoots returns the roots of the artifacts to which a machine whose starts are counted may fall back from the release of v,
// none if that one itself has started here.
func (c Config) keptRoots(v *manifest.Verified) (roots []cid.Cid) {
	current := v.Release().Content()
	if c.Starts == nil || slices.ContainsFunc(c.Blessed, func(b Blessed) bool { return b.Content == current }) {
		return nil
	}
	older, err := c.blessed(v)
	if err != nil {
		return nil
	}
	for _, a := range older.Release().Artifacts {
		roots = append(roots, a.CID)
	}
	return roots
}

// fallBack replaces a release that was started MaxTries times without a blessing by the newest blessed one. If there is none, or
// the signed rules forbid it, the release is tried again.
func fallBack(cfg Config, found resolve.Result) (resolve.Result, *report.FailedRelease) {
	r := found.Verified.Release()
	n, blessed := cfg.starts(r)
	if n < MaxTries || blessed {
		return found, nil
	}
	why := fmt.Sprintf("release %.80q was started %d times and its target has not blessed it", r.Version, n)
	older, err := cfg.blessed(found.Verified)
	if err != nil {
		cfg.Report.Warn("fallback: %s; it is tried again: %v", why, err)
		return found, nil
	}
	cfg.Report.Warn("fallback: %s; release %.80q is booted, which has started here before; a newer release is tried again", why, older.Release().Version)
	found.Verified = older
	return found, &report.FailedRelease{Version: r.Version, Number: r.Number, Content: r.Content(), Starts: n, Why: why}
}
