package manifest

import (
	"context"
	"fmt"
	"time"

	"github.com/theupdateframework/go-tuf/v2/metadata"
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
	return w.all(ctx)
}

// Published is Channels without dates: every signature, version, hash and path is checked,
// expiry is not. It is for a publisher, who serves what it has and renews it; no machine
// may boot what only Published has returned.
func Published(ctx context.Context, f Fetcher, root []byte) ([]Release, error) {
	w, err := newWalk(f, Policy{Root: root, Now: time.Unix(0, 0)})
	if err != nil {
		return nil, err
	}
	w.ageless = true
	return w.all(ctx)
}

// SignedAt is the date of signing that a timestamp carries, the zero time for none.
func SignedAt(timestamp *metadata.Metadata[metadata.TimestampType]) time.Time {
	x, _ := timestamp.Signed.UnrecognizedFields[extension].(map[string]any)
	text, _ := x["signed_at"].(string)
	t, err := time.Parse(timeLayout, text)
	if err != nil {
		return time.Time{}
	}
	return t
}

// all judges the release of each channel.
func (w *walk) all(ctx context.Context) ([]Release, error) {
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
