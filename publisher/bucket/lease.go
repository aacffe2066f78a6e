package bucket

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"sync"
	"time"

	"github.com/minio/minio-go/v7"

	"github.com/phaseboot/phaseboot/cas/pack"
)

// LeaseName is the name of the object that a writer holds.
const LeaseName = "lease"

const (
	leaseName  = LeaseName
	leaseLimit = 4 << 10         // bytes
	leaseLife  = 2 * time.Minute // after the last renewal, by the clock of the object store
	leaseRenew = 20 * time.Second
	leaseTries = 3
	lastTry    = 10 * time.Second // to give the lease back when the caller has ended

	noETag = "00000000000000000000000000000000" // of no object
)

// A lease is the right to write to a store: the object lease, which its holder renews. An object
// with another ETag belongs to another holder. A lease that was not renewed for leaseLife is free.
//
// Every change is a conditional PUT (If-None-Match or If-Match). On a server that ignores or refuses
// conditions two writers that begin in the same moment may both go on until one of them reads the
// lease. No block is lost then: packs have unique names, and what Collect replaces stays for the
// grace, which must be long there.
type lease struct {
	b    *Bucket
	body leaseBody

	mu      sync.Mutex
	etag    string
	renewed time.Time // on the local clock
	lost    error

	guarded       bool // the server heeds the condition of a PUT
	unconditional bool // it answers 501 to one

	stop context.CancelFunc
	done chan struct{}
}

// leaseBody is the content of the object.
type leaseBody struct {
	Holder string `json:"holder"` // for error texts; "" when the lease is free
	Nonce  string `json:"nonce"`  // of the holder
	Count  int    `json:"count"`  // of renewals, so that each has another ETag
}

// takeLease takes the lease. Another holder is an error that wraps pack.ErrBusy.
func takeLease(ctx context.Context, b *Bucket) (*lease, error) {
	host, _ := os.Hostname() // only for error texts
	l := &lease{b: b, body: leaseBody{Holder: fmt.Sprintf("process %d on %s", os.Getpid(), cmp.Or(host, "an unknown host")), Nonce: rand.Text()}, done: make(chan struct{})}
	data, o, err := b.Read(ctx, leaseName, leaseLimit)
	var old leaseBody
	switch {
	case errors.Is(err, fs.ErrNotExist):
		o.ETag = ""
	case err != nil:
		return nil, err
	default:
		if json.Unmarshal(data, &old) != nil {
			old.Holder = "an unknown process" // until its time is over
		}
		if left := leaseLife - b.Now().Sub(o.Modified); old.Holder != "" && left > 0 {
			return nil, fmt.Errorf("store %s: %w: %.200q writes to it; wait for it or stop it; if it was killed, the store is free in %s", b, pack.ErrBusy, old.Holder, left.Round(time.Second))
		}
	}
	if err = l.write(ctx, o.ETag); errors.Is(err, errCondition) {
		return nil, fmt.Errorf("store %s: %w: another process began to write in this moment; wait for it or stop it", b, pack.ErrBusy)
	}
	if err == nil {
		err = l.probe(ctx)
	}
	if err != nil {
		l.abandon(ctx)
		return nil, err
	}
	renew, stop := context.WithCancel(context.Background())
	l.stop = stop
	go l.keep(renew)
	return l, nil
}

// abandon frees the lease after a PUT that may have been done although it returned an error, as when ctx
// ended meanwhile. It does not matter if that fails: the lease is free when its time is over.
func (l *lease) abandon(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), lastTry)
	defer cancel()
	if etag, now, err := l.read(ctx); err == nil && now.Nonce == l.body.Nonce {
		l.body.Holder = ""
		_ = l.write(ctx, etag)
	}
}

// read returns the object and its ETag. Its body is empty if another program wrote it.
func (l *lease) read(ctx context.Context) (etag string, body leaseBody, err error) {
	data, o, err := l.b.Read(ctx, leaseName, leaseLimit)
	if err == nil && json.Unmarshal(data, &body) != nil {
		body = leaseBody{}
	}
	return o.ETag, body, err
}

// A Lock is the lease of an address, for a writer of other objects than packs.
type Lock struct{ lease *lease }

// Lock takes the lease of an address.
func (b *Bucket) Lock(ctx context.Context) (*Lock, error) {
	l, err := takeLease(ctx, b)
	if err != nil {
		return nil, err
	}
	return &Lock{l}, nil
}

// Check renews the lease. The error wraps pack.ErrBusy if another process has taken it.
func (l *Lock) Check(ctx context.Context) error { return l.lease.check(ctx) }

// Unlock gives the lease back, also when ctx has ended, if the server answers soon. It returns an error if another
// process had taken it.
func (l *Lock) Unlock(ctx context.Context) error {
	if ctx.Err() != nil {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(context.WithoutCancel(ctx), lastTry)
		defer cancel()
	}
	return errors.Join(l.lease.check(ctx), l.lease.release(ctx))
}

// write writes the object if it has an ETag still, or does not exist for "". A PUT may have succeeded
// although its answer was lost, or this process gave up waiting for it; the object then has the nonce
// of this lease and another ETag.
func (l *lease) write(ctx context.Context, etag string) error {
	l.body.Count++
	data, err := json.Marshal(l.body)
	if err != nil {
		return err
	}
	var next string
	for range leaseTries {
		if next, err = l.put(ctx, data, etag); !errors.Is(err, errCondition) {
			break
		}
		there, now, readErr := l.read(ctx)
		if readErr != nil {
			return readErr
		}
		if now.Nonce != l.body.Nonce {
			return err
		}
		if etag = there; now == l.body {
			next, err = etag, nil
			break
		}
	}
	if err == nil {
		l.etag, l.renewed = next, time.Now()
	}
	return err
}

// put writes the object under a condition, or under none where the server knows no conditions.
func (l *lease) put(ctx context.Context, data []byte, etag string) (next string, err error) {
	opts := minio.PutObjectOptions{ContentType: "application/json"}
	if !l.unconditional {
		setCondition(&opts, etag)
	}
	next, err = l.b.put(ctx, leaseName, data, opts)
	if errors.Is(err, errNotImplemented) && !l.unconditional {
		l.unconditional = true
		return l.put(ctx, data, etag)
	}
	return next, err
}

// setCondition makes a PUT fail unless the object has an ETag, or does not exist for "".
func setCondition(o *minio.PutObjectOptions, etag string) {
	if etag == "" {
		o.SetMatchETagExcept("*")
	} else {
		o.SetMatchETag(etag)
	}
}

// probe finds out whether the server heeds conditions: of two PUTs, both must fail.
func (l *lease) probe(ctx context.Context) error {
	data, err := json.Marshal(l.body)
	if err != nil {
		return err
	}
	l.guarded = !l.unconditional
	for _, wrong := range []string{"", noETag} {
		if !l.guarded {
			break
		}
		opts := minio.PutObjectOptions{ContentType: "application/json"}
		setCondition(&opts, wrong)
		etag, err := l.b.put(ctx, leaseName, data, opts)
		switch {
		case err == nil:
			l.etag, l.guarded = etag, false
		case errors.Is(err, errNotImplemented):
			l.unconditional, l.guarded = true, false
		case !errors.Is(err, errCondition):
			return err
		}
	}
	if !l.guarded {
		l.b.log.Warn("the object store does not heed If-None-Match and If-Match: run one add or gc at a time", "store", l.b.String())
	}
	return nil
}

// keep renews the lease until it is given back.
func (l *lease) keep(ctx context.Context) {
	defer close(l.done)
	tick := time.NewTicker(leaseRenew)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			_ = l.check(ctx) // the writer gets the error of its own check
		}
	}
}

// check renews the lease, and returns an error if another process has it.
func (l *lease) check(ctx context.Context) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.lost != nil {
		return l.lost
	}
	err := l.own(ctx)
	if err == nil {
		err = l.write(ctx, l.etag)
	}
	if errors.Is(err, errCondition) || errors.Is(err, fs.ErrNotExist) {
		l.lost = fmt.Errorf("store %s: another process has taken the lease (%w); run it again", l.b, pack.ErrBusy)
		return l.lost
	}
	return err
}

// own reads the object where the server would write it over that of another process.
func (l *lease) own(ctx context.Context) error {
	if l.guarded {
		return nil
	}
	_, now, err := l.read(ctx)
	if err == nil && now.Nonce != l.body.Nonce {
		return errCondition
	}
	return err
}

// fresh reports whether no other process can have taken the lease by now.
func (l *lease) fresh() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.lost == nil && time.Since(l.renewed) < leaseLife-leaseRenew
}

// release gives the lease back.
func (l *lease) release(ctx context.Context) error {
	l.stop()
	<-l.done
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.lost != nil {
		return nil
	}
	l.body.Holder = ""
	if err := l.write(ctx, l.etag); err != nil && !errors.Is(err, errCondition) {
		return err
	}
	return nil
}
