package repo_test

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"sync/atomic"
	"testing"
	"time"

	"github.com/phaseboot/phaseboot/publisher/pubtest"
	"github.com/phaseboot/phaseboot/publisher/repo"
)

// A countdown is a context that calls do when it was asked left times whether it has ended.
type countdown struct {
	context.Context
	left atomic.Int64
	do   func()
}

func (c *countdown) Err() error {
	if c.left.Add(-1) == 0 {
		c.do()
	}
	return c.Context.Err()
}

// Programs other than phase-publish do not take the lock of the repository.
func TestARenewalWhoseTimestampIsRemovedMeanwhileIsAnError(t *testing.T) {
	w := pubtest.New(t)
	w.Add(w.Sign(1, "v1", w.Release))
	r, err := repo.Open(t.Context(), w.Repo())
	pubtest.Check(t, err)
	timestamp, path := w.Read("repo/timestamp.json"), w.Path("repo/timestamp.json")
	refusals := 0
	for n, removed := int64(1), true; removed; n++ {
		w.Write("repo/timestamp.json", timestamp)
		ctx := &countdown{Context: t.Context(), do: func() { os.Remove(path) }}
		ctx.left.Store(n)
		if _, err := r.Renew(ctx, true, repo.Signing{Key: w.OnlineKey(), Now: time.Now()}); errors.Is(err, fs.ErrNotExist) {
			refusals++
		} else if err != nil {
			t.Errorf("removed at step %d: %v", n, err)
		}
		removed = ctx.left.Load() <= 0
	}
	if refusals < 3 {
		t.Errorf("%d refusals", refusals)
	}
}
