package store_test

import (
	"errors"
	"os"
	"testing"
	"time"

	"github.com/phaseboot/phaseboot/manifest"
	"github.com/phaseboot/phaseboot/publisher/pubtest"
	"github.com/phaseboot/phaseboot/publisher/store"
)

func TestStatusReportsAnExpiredTimestamp(t *testing.T) {
	w := pubtest.New(t)
	o := store.StatusOptions{Store: w.Path("store"), Repo: w.Repo()}
	pubtest.Check(t, os.Mkdir(w.Path("store"), 0o755))
	s, err := store.ReadStatus(t.Context(), o)
	if err != nil || s.Pointer != "" {
		t.Errorf("before a release: %+v, %v", s, err)
	}
	added := w.Add(w.Sign(1, "v1", w.Release))
	later := o
	later.Now = func() time.Time { return time.Now().Add(50 * time.Hour) }
	s, err = store.ReadStatus(t.Context(), later)
	if err != nil || !errors.Is(s.Err(), manifest.ErrExpired) || !s.Expired || len(s.Releases) != 1 || s.Pointer != added.Pointer {
		t.Errorf("after two days: %+v, %v", s, err)
	}
}
