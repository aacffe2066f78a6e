package manifest

import (
	"context"
	"fmt"
	"time"

	"github.com/theupdateframework/go-tuf/v2/metadata"
)

// Channels returns the release of every channel, each checked as Verify does without a state, in
// the order of the delegations. When some channels are refused, it returns the valid releases
// together with an error for the others.
func Channels(ctx context.Context, f Fetcher, root []byte, now time.Time) ([]Release, error) {
	w, err := newWorkflow(f, Policy{Root: root, Now: now})
	if err != nil {
		return nil, err
	}
	return w.all(ctx)
}

// Published is Channels without the expiry check: every signature, version, hash and path is
// checked. It is for a publisher, which serves expired metadata and renews them. A machine must
// not boot a release that only Published has returned.
func Published(ctx context.Context, f Fetcher, root []byte) ([]Release, error) {
	w, err := newWorkflow(f, Policy{Root: root, Now: time.Unix(0, 0)})
	if err != nil {
		return nil, err
	}
	w.time.unchecked = true
	return w.all(ctx)
}

// SignedAt is the date of signing in a timestamp, the zero time when it has none.
func SignedAt(timestamp *metadata.Metadata[metadata.TimestampType]) time.Time {
	x, _ := timestamp.Signed.UnrecognizedFields[extension].(map[string]any)
	text, _ := x["signed_at"].(string)
	t, err := time.Parse(timeLayout, text)
	if err != nil {
		return time.Time{}
	}
	return t
}

// all updates the top-level roles and then the role of each channel.
func (w *workflow) all(ctx context.Context) ([]Release, error) {
	if err := w.updateTopLevel(ctx); err != nil {
		return nil, err
	}
	if _, _, err := w.updateConfig(ctx); err != nil { // machines refuse every channel
		return nil, err
	}
	var (
		releases []Release
		refusals error
	)
	for _, role := range w.channels() {
		channel, arch, _ := SplitRole(role)
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
