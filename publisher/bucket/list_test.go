package bucket_test

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/phaseboot/phaseboot/internal/s3test"
	"github.com/phaseboot/phaseboot/publisher/bucket"
)

func dial(t *testing.T, address string) *bucket.Bucket {
	t.Helper()
	a, err := bucket.ParseAddress(address)
	check(t, err)
	b, err := bucket.Dial(a, nil)
	check(t, err)
	return b
}

// A list that takes longer than a request may is complete, also when each of its requests fails a few times.
func TestALongListIsComplete(t *testing.T) {
	t.Parallel()
	const n = 35 // four pages
	p, address := proxied(t)
	folder := server.Path(prefix(t), "many")
	check(t, os.MkdirAll(folder, 0o755))
	for i := range n {
		check(t, os.WriteFile(filepath.Join(folder, fmt.Sprintf("%04d", i)), nil, 0o644))
	}
	var lists atomic.Int64
	for name, choose := range map[string]func(*http.Request) s3test.Fault{
		"slow pages": func(*http.Request) s3test.Fault {
			lists.Add(1)
			time.Sleep(2 * time.Second)
			return s3test.None
		},
		"pages that fail": func(*http.Request) s3test.Fault {
			if lists.Add(1)%4 > 0 {
				return s3test.Status500
			}
			return s3test.None
		},
	} {
		b := dial(t, address)
		b.SetLimits(7*time.Second, 10)
		lists.Store(0)
		p.Set(choose)
		list, err := b.List(t.Context(), "many/", 0)
		check(t, err)
		sorted := slices.IsSortedFunc(list, func(a, b bucket.Object) int { return strings.Compare(a.Name, b.Name) })
		if len(list) != n || list[n-1].Name != fmt.Sprintf("many/%04d", n-1) || !sorted {
			t.Errorf("%s: %d objects, sorted %v", name, len(list), sorted)
		}
		if lists.Load() < 4 {
			t.Errorf("%s: only %d requests", name, lists.Load())
		}
	}
}

// gc of a store at the beginning of a bucket ends the uploads of killed writers, and leaves those of other programs.
func TestCollectEndsNoUploadsOfOtherPrograms(t *testing.T) {
	t.Parallel()
	address := server.Address(prefix(t))
	w := open(t, address, bucket.Options{Grace: time.Hour})
	for _, name := range []string{"packs/0193aabbccdd-abcdefghijklmnopqrstuvwxyz.car", "backup/disk.img", "packs-of-wool/1"} {
		check(t, w.BeginUpload(t.Context(), name))
	}
	uploads, err := filepath.Glob(server.Path("", ".sgwtmp/multipart/*/*"))
	check(t, err)
	old := time.Now().Add(-2 * time.Hour)
	for _, path := range uploads {
		check(t, os.Chtimes(path, old, old))
	}
	_, err = w.Collect(t.Context(), in(nil), nil)
	check(t, err)
	left := slices.Compact(slices.Sorted(slices.Values(w.Uploads(t.Context())))) // also of an earlier run
	if !slices.Equal(left, []string{"backup/disk.img", "packs-of-wool/1"}) {
		t.Errorf("left are the uploads of %v", left)
	}
}
