package bucket

import (
	"cmp"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/minio/minio-go/v7"

	"github.com/phaseboot/phaseboot/cas"
)

// Times and limits of requests. An attempt ends after attemptTime and the time that its bytes need
// at leastRate; the pauses between attempts double from firstPause to lastPause.
const (
	attempts      = 9
	firstPause    = 100 * time.Millisecond
	lastPause     = 5 * time.Second
	headerTimeout = 15 * time.Second // for the first byte of an answer
	attemptTime   = 20 * time.Second
	leastRate     = 256 << 10 // bytes a second
	noteAfter     = 2 * time.Second
	notePause     = time.Minute
	maxConns      = 64
	maxListed     = 1 << 20 // objects in a list
	pageSize      = 1000    // objects in an answer
)

var (
	errNoRange = fmt.Errorf("the server ignores the Range of a request: %w", cas.ErrCorrupt)
	errSlow    = errors.New("too slow")
)

// retry calls do until it succeeds, fails for good, or all attempts are used. bytes is what one
// attempt transfers.
func (b *Bucket) retry(ctx context.Context, name string, bytes int64, do func(context.Context) error) error {
	return b.retryLong(ctx, name, bytes, func(ctx context.Context, _ func()) error { return do(ctx) })
}

// retryLong is retry of more than one request: after each call of progress, time and attempts begin again.
func (b *Bucket) retryLong(ctx context.Context, name string, bytes int64, do func(ctx context.Context, progress func()) error) error {
	pause, begun := firstPause, time.Now()
	for left := attempts; ; {
		progress, err := b.attempt(ctx, bytes, do)
		if err == nil {
			return nil
		}
		if progress {
			left, pause = attempts, firstPause
		}
		if left--; ctx.Err() != nil || left == 0 || !transient(err) {
			if ctx.Err() != nil {
				err = context.Cause(ctx)
			}
			return b.explain(name, err)
		}
		b.note(name, begun, pause, err)
		select {
		case <-ctx.Done():
		case <-time.After(pause/2 + rand.N(pause)):
		}
		pause = min(2*pause, lastPause)
	}
}

// note logs that a request is repeated: as a warning when that lasts longer than noteAfter with the next pause, once in
// notePause.
func (b *Bucket) note(name string, begun time.Time, pause time.Duration, cause error) {
	level := slog.LevelDebug
	now, last := time.Now(), b.noted.Load()
	if now.Sub(begun)+pause > noteAfter && now.Sub(time.Unix(0, last)) > notePause && b.noted.CompareAndSwap(last, now.UnixNano()) {
		level = slog.LevelWarn
	}
	b.log.Log(context.Background(), level, "request to the object store is repeated", "store", b.String(), "endpoint", b.Endpoint.String(), "object", name, "cause", cause)
}

func (b *Bucket) attempt(ctx context.Context, bytes int64, do func(ctx context.Context, progress func()) error) (progress bool, err error) {
	limit := b.limit + time.Duration(bytes)*time.Second/leastRate
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	timer := time.AfterFunc(limit, func() { cancel(errSlow) })
	defer timer.Stop()
	err = do(ctx, func() {
		progress = true
		timer.Reset(limit)
	})
	if err != nil && errors.Is(context.Cause(ctx), errSlow) {
		return progress, fmt.Errorf("%w (%s)", errSlow, limit)
	}
	return progress, err
}

// damagedOnTheWay are the codes of errors for a body that arrived changed or incomplete.
var damagedOnTheWay = []string{
	"BadDigest", "IncompleteBody", "InvalidDigest", "XAmzContentChecksumMismatch", "XAmzContentSHA256Mismatch", "RequestTimeout", "SlowDown",
}

// elsewhere are the codes of errors for a bucket of another region or endpoint.
var elsewhere = []string{"PermanentRedirect", "TemporaryRedirect", "AuthorizationHeaderMalformed", "IllegalLocationConstraintException", "InvalidRegion"}

// regionOf returns the region that the server names, for an error text.
func regionOf(answer minio.ErrorResponse) string {
	if answer.Region == "" {
		return ""
	}
	return fmt.Sprintf(", %.40q,", answer.Region)
}

// transient reports whether another attempt may succeed.
func transient(err error) bool {
	if errors.Is(err, cas.ErrCorrupt) || errors.Is(err, context.Canceled) || errors.As(err, new(x509.UnknownAuthorityError)) ||
		errors.As(err, new(x509.HostnameError)) || strings.Contains(err.Error(), "server gave HTTP response to HTTPS client") {
		return false
	}
	answer := minio.ErrorResponse{}
	if !errors.As(err, &answer) {
		return true // of the network, or a body that broke off
	}
	switch answer.StatusCode {
	case http.StatusRequestTimeout, http.StatusTooManyRequests:
		return true
	case http.StatusNotImplemented:
		return false
	}
	return answer.StatusCode >= 500 || answer.StatusCode == 0 && answer.Code == "" || slices.Contains(damagedOnTheWay, answer.Code)
}

// explain names the object and the remedy.
func (b *Bucket) explain(name string, err error) error {
	answer := minio.ErrorResponse{}
	errors.As(err, &answer)
	object := "object " + b.String() + "/" + name
	switch {
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded), errors.Is(err, cas.ErrCorrupt), errors.Is(err, fs.ErrInvalid):
		return fmt.Errorf("%s: %w", object, err)
	case answer.Code == minio.NoSuchBucket:
		return fmt.Errorf("store %s: no bucket %q at %s: %w; make the bucket, or correct the name", b, b.Bucket, b.Endpoint, fs.ErrNotExist)
	case answer.Code == minio.NoSuchKey, answer.StatusCode == http.StatusNotFound:
		return fmt.Errorf("%s: %w", object, fs.ErrNotExist)
	case answer.StatusCode == http.StatusPreconditionFailed, answer.StatusCode == http.StatusConflict:
		return fmt.Errorf("%s: %w", object, errCondition)
	case answer.StatusCode == http.StatusNotImplemented:
		return fmt.Errorf("%s: %w", object, errNotImplemented)
	case answer.Code == "RequestTimeTooSkewed":
		return fmt.Errorf("%s: %s (%w); %s", object, answer.Code, fs.ErrPermission, b.clockRemedy())
	case slices.Contains(elsewhere, answer.Code), answer.StatusCode >= 300 && answer.StatusCode < 400:
		return fmt.Errorf("%s: %s from %s: the bucket is in another region%s or at another endpoint (%w); write s3://%s/…?region=REGION or endpoint=URL", object, cmp.Or(answer.Code, "a redirect"), b.Endpoint, regionOf(answer), fs.ErrInvalid, b.Bucket)
	case answer.StatusCode == http.StatusForbidden, answer.StatusCode == http.StatusUnauthorized:
		return fmt.Errorf("%s: %s (%w); %s", object, answer.Code, fs.ErrPermission, b.keysRemedy())
	case answer.StatusCode >= 500, answer.Code == "", errors.Is(err, errSlow), errors.Is(err, io.ErrUnexpectedEOF):
		return fmt.Errorf("%s: %w: %w; check the object store at %s", object, cas.ErrUnreachable, err, b.Endpoint)
	}
	return fmt.Errorf("%s: %w", object, err)
}

var errNotImplemented = errors.New("the object store does not implement this request")

// errCondition is the error of a PUT whose condition does not hold.
var errCondition = errors.New("changed by another process")
