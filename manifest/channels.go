package manifest

import (
	"context"
	"fmt"
	"time"
)

// Channels returns every release of a repository, each judged as Verify does with no
// state, in the order of the delegations. A channel that is refused does not hide the
// others: the releases that are good come together with an error for those that are
// not.
func Channels(ctx context.Context, f Fetcher, root []byte, now time.Time) ([]Release, error) {
	w, err := newWalk(f, Policy{Root: root, Now: now})
	if err != nil {
		return nil, err
	}
	if err := w.top(ctx); err != nil {
		return nil, err
	}
	var (
		releases []Release
		refusals error
	)
	for _, role := range w.channels() {
		channel, arch, _ := splitRole(role)
		r, err := w.release(ctx, channel, arch)
		switch {
		case err == nil:
			releases = append(releases, r)
		case refusals == nil:
			refusals = err
		default:
			refusals = fmt.Errorf("%w; %w", refusals, err)
		}
	}
	return releases, refusals
}
