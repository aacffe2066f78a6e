package store_test

import (
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/internal/s3test"
	"github.com/phaseboot/phaseboot/manifest"
	"github.com/phaseboot/phaseboot/publisher/pubtest"
	"github.com/phaseboot/phaseboot/publisher/repo"
	"github.com/phaseboot/phaseboot/publisher/store"
)

// objectStore starts an S3 server for one test.
func objectStore(t *testing.T) *s3test.Server {
	t.Helper()
	pubtest.Check(t, s3test.Setenv())
	s, err := s3test.Start(t.TempDir())
	pubtest.Check(t, err)
	t.Cleanup(func() { s.Stop() })
	return s
}

// pointers publishes three releases, and returns the pointer after each.
func pointers(t *testing.T) (list []*repo.Pointer) {
	w := pubtest.New(t)
	for n := range int64(3) {
		w.Next(n+1, fmt.Sprintf("v%d", n+1))
		p, err := pubtest.ReadPointer(t.Context(), w.Repo())
		pubtest.Check(t, err)
		list = append(list, p)
	}
	return list
}

func TestMetadataInAnObjectStoreAreNotReplacedByOlderOnes(t *testing.T) {
	t.Parallel()
	s, list := objectStore(t), pointers(t)
	address := s.Address("fleet")
	pubtest.Check(t, store.PutMetadata(t.Context(), address, list[1], map[string][]byte{"name": []byte("record 2")}))
	before := pubtest.FilesOf(t, s.Path("fleet", ""))
	err := store.PutMetadata(t.Context(), address, list[0], map[string][]byte{"name": []byte("record 1")})
	if !errors.Is(err, manifest.ErrRollback) || !strings.Contains(err.Error(), "timestamp version 1 is older than version 2") || !strings.Contains(err.Error(), "copy the newer files") {
		t.Error(err)
	}
	pubtest.Unchanged(t, before, pubtest.FilesOf(t, s.Path("fleet", "")))
	pubtest.Check(t, store.PutMetadata(t.Context(), address, list[1], nil))
	pubtest.Check(t, store.PutMetadata(t.Context(), address, list[2], nil))
	r, err := store.OpenReplica(t.Context(), address, nil)
	pubtest.Check(t, err)
	defer r.Close()
	if p, err := pubtest.ReadPointer(t.Context(), r.Dir); err != nil || !p.Folder.Equals(list[2].Folder) {
		t.Errorf("%+v, %v", p, err)
	}
}

// The list that was read before lacks the files that the newer timestamp names.
func TestAReplicaReadsMetadataThatAreWrittenWhileItLists(t *testing.T) {
	t.Parallel()
	s, list := objectStore(t), pointers(t)
	proxy, err := s3test.NewProxy(s)
	pubtest.Check(t, err)
	defer proxy.Close()
	pubtest.Check(t, store.PutMetadata(t.Context(), s.Address("fleet"), list[0], nil))
	var written atomic.Bool
	proxy.Set(func(r *http.Request) s3test.Fault {
		if strings.HasSuffix(r.URL.Path, "/repo/timestamp.json") && !written.Swap(true) {
			if err := store.PutMetadata(t.Context(), s.Address("fleet"), list[1], nil); err != nil {
				t.Error(err)
			}
		}
		return s3test.None
	})
	r, err := store.OpenReplica(t.Context(), s3test.Address(proxy.URL, "fleet"), nil)
	pubtest.Check(t, err)
	defer r.Close()
	if p, err := pubtest.ReadPointer(t.Context(), r.Dir); err != nil || !p.Folder.Equals(list[1].Folder) {
		t.Errorf("%+v, %v", p, err)
	}
}

// A list of objects that was cut off in silence would leave out the timestamp, which is the last.
func TestTooManyMetadataAreAnError(t *testing.T) {
	t.Parallel()
	pubtest.Check(t, s3test.Setenv())
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !r.URL.Query().Has("list-type") {
			w.WriteHeader(http.StatusNotFound)
			return
		}
		fmt.Fprint(w, "<ListBucketResult><IsTruncated>false</IsTruncated>")
		for i := range 4097 {
			fmt.Fprintf(w, "<Contents><Key>fleet/repo/%d.other.json</Key><ETag>&quot;e&quot;</ETag><Size>2</Size></Contents>", i+1)
		}
		fmt.Fprint(w, "</ListBucketResult>")
	}))
	defer server.Close()
	address := s3test.Address(server.URL, "fleet")
	_, openErr := store.OpenReplica(t.Context(), address, nil)
	for _, err := range []error{openErr, store.PutMetadata(t.Context(), address, pointers(t)[0], nil)} {
		if !errors.Is(err, cas.ErrCorrupt) || !strings.Contains(err.Error(), "more than 4096 objects below repo/") {
			t.Error(err)
		}
	}
}
