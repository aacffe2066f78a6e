package bucket

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"

	"github.com/phaseboot/phaseboot/cas"
)

// A Bucket reads and writes the objects below an address. Their names are relative to it. All
// errors name the object. They wrap fs.ErrNotExist, fs.ErrPermission, or cas.ErrUnreachable after
// the retries of an object store that does not answer as it should.
type Bucket struct {
	Address
	core  minio.Core
	clock *serverClock
	log   *slog.Logger
	creds *credentials.Credentials
	noted atomic.Int64  // when a note of a repeated request was logged last, in nanoseconds
	limit time.Duration // attemptTime, but in tests
	page  int           // pageSize, but in tests
}

// An Object is the entry of an object in a list.
type Object struct {
	Name     string // relative to the address
	Size     int64
	Modified time.Time // by the clock of the object store
	ETag     string
}

// Dial returns the bucket of an address. It sends no request. Credentials are those of the
// environment (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN), of the file of
// AWS_SHARED_CREDENTIALS_FILE or ~/.aws/credentials, or of the role that the environment of a
// container names; without any, requests are not signed, as public buckets allow.
func Dial(a Address, log *slog.Logger) (*Bucket, error) {
	secure := a.Endpoint.Scheme == "https"
	transport, err := minio.DefaultTransport(secure)
	if err != nil {
		return nil, fmt.Errorf("store %s: %w", a, err)
	}
	transport.MaxIdleConns, transport.MaxIdleConnsPerHost = 2*maxConns, maxConns
	transport.ResponseHeaderTimeout = headerTimeout
	b := &Bucket{Address: a, clock: &serverClock{next: transport}, log: cmp.Or(log, slog.New(slog.DiscardHandler)), creds: chain(), limit: attemptTime, page: pageSize}
	client, err := minio.New(a.Endpoint.Host, &minio.Options{
		Creds: b.creds, Secure: secure, Region: a.Region, Transport: b.clock,
		MaxRetries: 1, // retry does it, for bodies that break off too
	})
	if err != nil {
		return nil, fmt.Errorf("store %s: %w (%w)", a, err, fs.ErrInvalid)
	}
	b.core = minio.Core{Client: client}
	return b, nil
}

// A serverClock is a transport that compares the clock of the object store with the local one.
type serverClock struct {
	next http.RoundTripper
	skew atomic.Int64 // nanoseconds that the object store is ahead
}

func (c *serverClock) RoundTrip(r *http.Request) (*http.Response, error) {
	resp, err := c.next.RoundTrip(r)
	if err == nil {
		if date, err := http.ParseTime(resp.Header.Get("Date")); err == nil {
			c.skew.Store(int64(time.Until(date)))
		}
	}
	return resp, err
}

// Now is the time of the object store, to the second, after a request.
func (b *Bucket) Now() time.Time { return time.Now().Add(time.Duration(b.clock.skew.Load())) }

func (b *Bucket) key(name string) string { return b.Prefix + name }

// ReadParts reads consecutive parts of an object, the first at an offset, and calls done after
// each. After an answer that breaks off it continues where that ended.
func (b *Bucket) ReadParts(ctx context.Context, name string, from int64, parts [][]byte, done func(part int)) error {
	var total int64
	for _, p := range parts {
		total += int64(len(p))
	}
	if total == 0 {
		return nil
	}
	part, have := 0, 0 // parts that are read, and bytes of the next one
	at := from
	return b.retry(ctx, name, total, func(ctx context.Context) error {
		opts := minio.GetObjectOptions{}
		if err := opts.SetRange(at, from+total-1); err != nil {
			return err
		}
		body, info, header, err := b.core.GetObject(ctx, b.Bucket, b.key(name), opts)
		if err != nil {
			return err
		}
		defer body.Close()
		if header.Get("Content-Range") == "" && (at != 0 || info.Size != total) {
			return errNoRange
		}
		for part < len(parts) {
			n, err := io.ReadFull(body, parts[part][have:])
			have, at = have+n, at+int64(n)
			if err != nil {
				return cutShort(err)
			}
			done(part)
			part, have = part+1, 0
		}
		return nil
	})
}

// Read returns a whole object of at most limit bytes. A larger one wraps cas.ErrCorrupt.
func (b *Bucket) Read(ctx context.Context, name string, limit int64) (data []byte, o Object, err error) {
	err = b.retry(ctx, name, limit, func(ctx context.Context) error {
		body, info, _, err := b.core.GetObject(ctx, b.Bucket, b.key(name), minio.GetObjectOptions{})
		if err != nil {
			return err
		}
		defer body.Close()
		if info.Size > limit {
			return fmt.Errorf("%d bytes, the limit is %d: %w", info.Size, limit, cas.ErrCorrupt)
		}
		if info.Size < 0 { // an answer that breaks off would look complete
			return fmt.Errorf("an answer without Content-Length: %w; check the object store, or the proxy before it", cas.ErrCorrupt)
		}
		data = make([]byte, info.Size)
		if _, err := io.ReadFull(body, data); err != nil {
			return cutShort(err)
		}
		o = Object{name, info.Size, info.LastModified, info.ETag}
		return nil
	})
	return data, o, err
}

// cutShort makes the end of a body that is too early an error that is tried again.
func cutShort(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// Write writes an object, over one of the same name. It is stored when Write returns nil.
func (b *Bucket) Write(ctx context.Context, name string, data []byte, contentType string) error {
	return b.WriteCached(ctx, name, data, ObjectOptions{Type: contentType})
}

// ObjectOptions are headers with which an object is read later.
type ObjectOptions struct {
	Type  string // Content-Type; "" for bytes
	Cache string // Cache-Control; "" for none
}

// WriteCached is Write with further headers.
func (b *Bucket) WriteCached(ctx context.Context, name string, data []byte, o ObjectOptions) error {
	_, err := b.put(ctx, name, data, minio.PutObjectOptions{ContentType: o.Type, CacheControl: o.Cache})
	return err
}

func (b *Bucket) put(ctx context.Context, name string, data []byte, opts minio.PutObjectOptions) (etag string, err error) {
	opts.DisableMultipart = true // a PUT that is killed leaves nothing
	err = b.retry(ctx, name, int64(len(data)), func(ctx context.Context) error {
		info, err := b.core.Client.PutObject(ctx, b.Bucket, b.key(name), bytes.NewReader(data), int64(len(data)), opts)
		etag = info.ETag
		return err
	})
	return etag, err
}

// WriteFile writes an object from a stream of known length, in parts when it is long. open is
// called again for another attempt.
func (b *Bucket) WriteFile(ctx context.Context, name string, size int64, o ObjectOptions, open func(context.Context) io.Reader) error {
	return b.retry(ctx, name, size, func(ctx context.Context) error {
		opts := minio.PutObjectOptions{ContentType: o.Type, CacheControl: o.Cache, DisableMultipart: size <= 64<<20, NumThreads: 2}
		_, err := b.core.Client.PutObject(ctx, b.Bucket, b.key(name), open(ctx), size, opts)
		return err
	})
}

// Remove removes an object. One that does not exist is no error.
func (b *Bucket) Remove(ctx context.Context, name string) error {
	return b.retry(ctx, name, 0, func(ctx context.Context) error {
		return b.core.RemoveObject(ctx, b.Bucket, b.key(name), minio.RemoveObjectOptions{})
	})
}

// List lists the objects whose names begin with a prefix, at most most of them (0: maxListed). The limits of time and
// attempts are for a page of the list: after an answer that breaks off it continues where that ended.
func (b *Bucket) List(ctx context.Context, prefix string, most int) (list []Object, err error) {
	err = b.retryLong(ctx, prefix, 0, func(ctx context.Context, progress func()) error {
		o := minio.ListObjectsOptions{Prefix: b.key(prefix), Recursive: true, MaxKeys: b.page}
		if most > 0 {
			o.MaxKeys = min(most, b.page)
		}
		if len(list) > 0 {
			o.StartAfter = b.key(list[len(list)-1].Name)
		}
		for o := range b.core.Client.ListObjectsIter(ctx, b.Bucket, o) {
			if o.Err != nil {
				return o.Err
			}
			name := strings.TrimPrefix(o.Key, b.Prefix)
			if strings.HasSuffix(name, "/") {
				continue // a folder, of servers that keep objects in files
			}
			list = append(list, Object{name, o.Size, o.LastModified, o.ETag})
			progress()
			if most > 0 && len(list) == most {
				return nil
			}
			if len(list) > maxListed {
				return fmt.Errorf("more than %d objects: %w", maxListed, cas.ErrCorrupt)
			}
		}
		return ctx.Err()
	})
	return list, err
}

// EndUploads ends the uploads in parts of objects whose names begin with a prefix, that began before a time and were not
// completed.
func (b *Bucket) EndUploads(ctx context.Context, prefix string, before time.Time) (ended int, err error) {
	err = b.retryLong(ctx, prefix, 0, func(ctx context.Context, progress func()) error {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		for u := range b.core.ListIncompleteUploads(ctx, b.Bucket, b.key(prefix), true) {
			if u.Err != nil {
				return u.Err
			}
			if !u.Initiated.Before(before) {
				continue
			}
			if err := b.core.AbortMultipartUpload(ctx, b.Bucket, u.Key, u.UploadID); err != nil {
				return err
			}
			ended++
			progress()
		}
		return ctx.Err()
	})
	if errors.Is(err, errNotImplemented) { // then there are none
		return 0, nil
	}
	return ended, err
}
