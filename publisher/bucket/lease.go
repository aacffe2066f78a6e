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
)

// A lease is the right to write to a store: the object lease, which its holder renews. An object
// with another ETag belongs to another holder. A lease that was not renewed for leaseLife is free.
//
// Every change is a conditional PUT (If-None-Match or If-Match). On a server that ignores the
// condition two writers that begin in the same moment may both go on. No block is lost then: packs
// have unique names, and what Collect replaces stays for the grace.
type lease struct {
	b    *Bucket
	body leaseBody

	mu      sync.Mutex
	etag    string
	renewed time.Time // on the local clock
	lost    error
	guarded bool // the server heeds the condition of a PUT

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
		if left := leaseLife - b.now().Sub(o.Modified); old.Holder != "" && left > 0 {
			return nil, fmt.Errorf("store %s: %w: %.200q writes to it; wait for it or stop it; if it was killed, the store is free in %s", b, pack.ErrBusy, old.Holder, left.Round(time.Second))
		}
	}
	if err := l.write(ctx, o.ETag); errors.Is(err, errCondition) {
		return nil, fmt.Errorf("store %s: %w: another process began to write in this moment; wait for it or stop it", b, pack.ErrBusy)
	} else if err != nil {
		return nil, err
	}
	l.probe(ctx)
	renew, stop := context.WithCancel(context.Background())
	l.stop = stop
	go l.keep(renew)
	return l, nil
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

// Unlock gives the lease back, also when ctx has ended. It returns an error if another process had taken it.
func (l *Lock) Unlock(ctx context.Context) error {
	ctx = context.WithoutCancel(ctx)
	return errors.Join(l.lease.check(ctx), l.lease.release(ctx))
}

// write writes the object if it has an ETag still, or does not exist for "". A PUT that succeeded
// although its answer was lost is repeated by retry and then fails: the nonce shows it.
func (l *lease) write(ctx context.Context, etag string) error {
	l.body.Count++
	data, err := json.Marshal(l.body)
	if err != nil {
		return err
	}
	opts := minio.PutObjectOptions{ContentType: "application/json"}
	if etag == "" {
		opts.SetMatchETagExcept("*")
	} else {
		opts.SetMatchETag(etag)
	}
	next, err := l.b.put(ctx, leaseName, data, opts)
	if errors.Is(err, errCondition) {
		var now leaseBody
		got, o, readErr := l.b.Read(ctx, leaseName, leaseLimit)
		if readErr == nil && json.Unmarshal(got, &now) == nil && now == l.body {
			next, err = o.ETag, nil
		}
	}
	if err == nil {
		l.etag, l.renewed = next, time.Now()
	}
	return err
}

// probe finds out whether the server heeds conditions: a PUT that must fail.
func (l *lease) probe(ctx context.Context) {
	opts := minio.PutObjectOptions{ContentType: "application/json"}
	opts.SetMatchETagExcept("*")
	data, _ := json.Marshal(l.body) // was marshaled before
	etag, err := l.b.put(ctx, leaseName, data, opts)
	l.guarded = errors.Is(err, errCondition)
	if err == nil {
		l.etag = etag
	}
	if !l.guarded {
		l.b.log.Warn("the object store ignores If-None-Match: run one add or gc at a time", "store", l.b.String())
	}
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
	err := l.write(ctx, l.etag)
	if errors.Is(err, errCondition) || errors.Is(err, fs.ErrNotExist) {
		l.lost = fmt.Errorf("store %s: another process has taken the lease (%w); run it again", l.b, pack.ErrBusy)
		return l.lost
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
