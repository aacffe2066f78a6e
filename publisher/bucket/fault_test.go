package bucket_test

import (
	"errors"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ipfs/go-cid"

	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/cas/pack"
	"github.com/phaseboot/phaseboot/internal/s3test"
	"github.com/phaseboot/phaseboot/publisher/bucket"
)

func all(*http.Request) bool { return true }
func gets(r *http.Request) bool {
	return r.Method == http.MethodGet && strings.Contains(r.URL.Path, "/packs/")
}

func writes(r *http.Request) bool { return r.Method == http.MethodPut || r.Method == http.MethodDelete }

// A writer puts blocks, a reader reads them, and gc removes half, while the object store fails.
func TestFaultsOfTheObjectStoreLoseNothing(t *testing.T) {
	t.Parallel()
	for name, choose := range map[string]func(*http.Request) s3test.Fault{
		"500 to every other request":        everyOther(s3test.Status500, all),
		"503 SlowDown":                      everyOther(s3test.Status503, all),
		"writes whose answer is lost":       everyOther(s3test.LostAnswer, writes),
		"bodies that break off":             everyOther(s3test.Truncated, gets),
		"bodies that are too short":         everyOther(s3test.ShortLength, gets),
		"wrong bytes in every other answer": everyOther(s3test.WrongByte, gets),
		"a slow answer":                     everyOther(s3test.Slow, gets),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p, address := proxied(t)
			p.Set(choose)
			blocks := some(1, 40)
			w := open(t, address, bucket.Options{MaxPack: 50_000})
			fill(t, w, blocks)
			check(t, w.Close())
			wantAll(t, open(t, address, bucket.Options{ReadOnly: true}), blocks)
			if found := fsck(t, address); len(found) > 0 {
				t.Error(found)
			}
			kept := half(blocks)
			w = open(t, address, bucket.Options{MaxPack: 50_000, Grace: time.Hour})
			_, err := w.Collect(t.Context(), func(c cid.Cid) bool { _, ok := kept[c]; return ok }, nil)
			check(t, err)
			check(t, w.Close())
			p.Set(func(*http.Request) s3test.Fault { return s3test.None })
			wantAll(t, open(t, address, bucket.Options{ReadOnly: true}), kept)
			if found := fsck(t, address); len(found) > 0 {
				t.Error(found)
			}
		})
	}
}

// half returns every other block.
func half(blocks map[cid.Cid][]byte) map[cid.Cid][]byte {
	out := maps.Clone(blocks)
	for i, c := range slices.SortedFunc(maps.Keys(blocks), func(a, b cid.Cid) int { return strings.Compare(a.KeyString(), b.KeyString()) }) {
		if i%2 == 0 {
			delete(out, c)
		}
	}
	return out
}

func TestAnObjectStoreThatIsDownIsUnreachableAndNotEmpty(t *testing.T) {
	t.Parallel()
	p, address := proxied(t)
	blocks := some(2, 3)
	w := open(t, address, bucket.Options{})
	fill(t, w, blocks)
	check(t, w.Close())
	r := open(t, address, bucket.Options{ReadOnly: true})
	p.Close()
	for c := range blocks {
		if _, err := r.Block(t.Context(), c); !errors.Is(err, cas.ErrUnreachable) || !strings.Contains(err.Error(), "check the object store at http://") {
			t.Errorf("%v, want ErrUnreachable and the remedy", err)
		}
		break
	}
}

// Wrong bytes that stay wrong are reported with the name of the object, and are never returned.
func TestWrongBytesAreNeverReturned(t *testing.T) {
	t.Parallel()
	address := server.Address(prefix(t))
	blocks := some(3, 5)
	w := open(t, address, bucket.Options{})
	fill(t, w, blocks)
	check(t, w.Close())
	object := damageOne(t, "car")
	r := open(t, address, bucket.Options{ReadOnly: true})
	wrong := 0
	for c := range blocks {
		data, err := r.Block(t.Context(), c)
		if err == nil {
			check(t, cas.Check(c, data))
			continue
		}
		wrong++
		if !errors.Is(err, cas.ErrCorrupt) || !errors.As(err, new(*cas.WrongError)) || !strings.Contains(err.Error(), object) {
			t.Errorf("%v, want the name of the object, %s", err, object)
		}
	}
	found := fsck(t, address)
	if wrong != 1 || len(found) != 1 || !strings.HasSuffix(found[0].File, object) || blocks[found[0].CID] == nil {
		t.Errorf("%d wrong blocks, fsck found %v", wrong, found)
	}
	w = open(t, address, bucket.Options{})
	keepAll := func(cid.Cid) bool { return true }
	if _, err := w.Collect(t.Context(), keepAll, nil); err != nil {
		t.Error("nothing is to be removed:", err)
	}
	memory := cas.NewMemory()
	fill(t, memory, blocks)
	check(t, w.Repair(t.Context(), found, memory))
	check(t, w.Close())
	wantAll(t, open(t, address, bucket.Options{ReadOnly: true}), blocks)
	if found := fsck(t, address); len(found) > 0 {
		t.Error("after the repair:", found)
	}
}

// damageOne changes a byte in the middle of the only object with an extension, and returns its name.
func damageOne(t *testing.T, ext string) string {
	t.Helper()
	list, err := filepath.Glob(server.Path(prefix(t), "packs/*."+ext))
	if err != nil || len(list) != 1 {
		t.Fatal(list, err)
	}
	data, err := os.ReadFile(list[0])
	check(t, err)
	data[len(data)/2] ^= 1
	check(t, os.WriteFile(list[0], data, 0o644))
	return filepath.Base(list[0])
}

func TestFsckFindsDamageOfEachKindAndRepairMendsIt(t *testing.T) {
	t.Parallel()
	for name, spoil := range map[string]func(t *testing.T) string{
		"a byte of an index": func(t *testing.T) string { return damageOne(t, "idx") },
		"a pack that is gone": func(t *testing.T) string {
			list, _ := filepath.Glob(server.Path(prefix(t), "packs/*.car"))
			check(t, os.Remove(list[0]))
			return filepath.Base(list[0])
		},
		"a pack that is cut short": func(t *testing.T) string {
			list, _ := filepath.Glob(server.Path(prefix(t), "packs/*.car"))
			check(t, os.Truncate(list[0], 9000))
			return strings.TrimSuffix(filepath.Base(list[0]), ".car")
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			address := server.Address(prefix(t))
			blocks := some(4, 5)
			w := open(t, address, bucket.Options{})
			fill(t, w, blocks)
			check(t, w.Close())
			object := spoil(t)
			found := fsck(t, address)
			if len(found) != 1 || !errors.Is(found[0].Err, cas.ErrCorrupt) || !strings.Contains(found[0].Err.Error(), object) {
				t.Fatalf("found %v, want %s", found, object)
			}
			w = open(t, address, bucket.Options{})
			check(t, w.Repair(t.Context(), found, cas.NewMemory()))
			fill(t, w, blocks) // what the repair could not find: it is not listed any more
			check(t, w.Close())
			wantAll(t, open(t, address, bucket.Options{ReadOnly: true}), blocks)
			if found := fsck(t, address); len(found) > 0 {
				t.Error("after the repair:", found)
			}
		})
	}
}

// A pack whose index is damaged has the only copy of its blocks. It stays until a repair has saved each of them.
func TestRepairKeepsAPackOfWhichItCannotReadABlock(t *testing.T) {
	t.Parallel()
	address := server.Address(prefix(t))
	blocks := some(5, 5)
	w := open(t, address, bucket.Options{})
	fill(t, w, blocks)
	check(t, w.Close())
	damageOne(t, "idx")
	object := damageOne(t, "car")
	found := fsck(t, address)
	w = open(t, address, bucket.Options{})
	if err := w.Repair(t.Context(), found, cas.NewMemory()); !errors.Is(err, cas.ErrCorrupt) || !strings.Contains(err.Error(), object) {
		t.Errorf("%v, want the damage that is left in %s", err, object)
	}
	check(t, w.Close())
	if marks, _ := filepath.Glob(server.Path(prefix(t), "packs/*.gone")); len(marks) > 0 {
		t.Error("the pack is marked as replaced:", marks)
	}
	memory := cas.NewMemory()
	fill(t, memory, blocks)
	w = open(t, address, bucket.Options{})
	check(t, w.Repair(t.Context(), fsck(t, address), memory))
	check(t, w.Close())
	wantAll(t, open(t, address, bucket.Options{ReadOnly: true}), blocks)
}

// A byte that changes on the way to the repair is no damage.
func TestRepairReadsAPackAgain(t *testing.T) {
	t.Parallel()
	p, address := proxied(t)
	blocks := some(6, 5)
	w := open(t, address, bucket.Options{})
	fill(t, w, blocks)
	check(t, w.Close())
	damageOne(t, "idx")
	found := fsck(t, address)
	w = open(t, address, bucket.Options{})
	var wrong atomic.Bool
	p.Set(func(r *http.Request) s3test.Fault {
		if r.Method == http.MethodGet && strings.HasSuffix(r.URL.Path, ".car") && !wrong.Swap(true) {
			return s3test.WrongByte
		}
		return s3test.None
	})
	check(t, w.Repair(t.Context(), found, cas.NewMemory()))
	check(t, w.Close())
	if !wrong.Load() {
		t.Error("no byte was changed")
	}
	wantAll(t, open(t, address, bucket.Options{ReadOnly: true}), blocks)
}

func TestWrongKeysNameTheRemedy(t *testing.T) {
	address := server.Address(prefix(t))
	t.Setenv("AWS_SECRET_ACCESS_KEY", "wrong")
	_, err := bucket.Open(t.Context(), address, bucket.Options{ReadOnly: true})
	if err == nil || !strings.Contains(err.Error(), "check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY") {
		t.Error(err)
	}
	t.Setenv("AWS_SECRET_ACCESS_KEY", s3test.SecretKey)
	_, err = bucket.Open(t.Context(), strings.Replace(address, s3test.Bucket, "no-such-bucket", 1), bucket.Options{ReadOnly: true})
	if err == nil || !strings.Contains(err.Error(), `no bucket "no-such-bucket"`) {
		t.Error(err)
	}
}

func TestASecondWriterIsRefused(t *testing.T) {
	t.Parallel()
	address := server.Address(prefix(t))
	w := open(t, address, bucket.Options{})
	if _, err := bucket.Open(t.Context(), address, bucket.Options{}); !errors.Is(err, pack.ErrBusy) || !strings.Contains(err.Error(), "writes to it") {
		t.Errorf("%v, want ErrBusy and the holder", err)
	}
	check(t, w.Close())
	check(t, open(t, address, bucket.Options{}).Close())
}

// A writer that another process has replaced notices it before it reports anything as stored.
func TestAWriterThatLostItsLeaseFails(t *testing.T) {
	t.Parallel()
	address := server.Address(prefix(t))
	w := open(t, address, bucket.Options{})
	lease := server.Path(prefix(t), "lease")
	old := time.Now().Add(-time.Hour)
	check(t, os.Chtimes(lease, old, old)) // as if it were not renewed
	other := open(t, address, bucket.Options{})
	for c, data := range some(5, 1) {
		check(t, w.Put(t.Context(), c, data))
	}
	if err := w.Sync(t.Context()); !errors.Is(err, pack.ErrBusy) {
		t.Errorf("%v, want ErrBusy", err)
	}
	check(t, other.Close())
}

// Two writers begin at once, many times: one of them gets the lease.
func TestOfTwoWritersThatBeginAtOnceOneIsRefused(t *testing.T) {
	t.Parallel()
	address := server.Address(prefix(t))
	for range 10 {
		results := make(chan error)
		var opened []*bucket.Store
		for range 2 {
			go func() {
				s, err := bucket.Open(t.Context(), address, bucket.Options{})
				if err == nil {
					opened = append(opened, s) // one does, or the test fails
				}
				results <- err
			}()
		}
		a, b := <-results, <-results
		if (a == nil) == (b == nil) || !errors.Is(errors.Join(a, b), pack.ErrBusy) {
			t.Fatalf("%v and %v, want one ErrBusy", a, b)
		}
		check(t, opened[0].Close())
	}
}
