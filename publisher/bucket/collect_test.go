package bucket_test

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ipfs/go-cid"

	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/cas/castest"
	"github.com/phaseboot/phaseboot/cas/pack"
	"github.com/phaseboot/phaseboot/publisher/bucket"
)

func in(blocks map[cid.Cid][]byte) func(cid.Cid) bool {
	return func(c cid.Cid) bool { _, ok := blocks[c]; return ok }
}

// objects counts the objects of the packs with an extension.
func objects(t *testing.T, ext string) int {
	t.Helper()
	list, err := filepath.Glob(server.Path(prefix(t), "packs/*."+ext))
	check(t, err)
	return len(list)
}

// age makes all objects with an extension older.
func age(t *testing.T, ext string, by time.Duration) {
	t.Helper()
	list, err := filepath.Glob(server.Path(prefix(t), "packs/*."+ext))
	check(t, err)
	when := time.Now().Add(-by)
	for _, path := range list {
		check(t, os.Chtimes(path, when, when))
	}
}

func TestCollectRemovesWhatItReplacedAfterTheGrace(t *testing.T) {
	t.Parallel()
	address := server.Address(prefix(t))
	blocks := some(6, 40)
	kept := half(blocks)
	w := open(t, address, bucket.Options{MaxPack: 50_000, Grace: time.Hour})
	fill(t, w, blocks)
	old := open(t, address, bucket.Options{ReadOnly: true}) // a replica with an old list
	before := objects(t, "car")
	done, err := w.Collect(t.Context(), in(kept), nil)
	check(t, err)
	if done.Blocks != 20 || done.Packs != int64(before) || done.Waiting == 0 || objects(t, "gone") != before {
		t.Errorf("%+v, %d packs marked, there were %d", done, objects(t, "gone"), before)
	}
	wantAll(t, old, blocks)
	fresh := open(t, address, bucket.Options{ReadOnly: true})
	wantAll(t, fresh, blocks) // within the grace also those that are not needed
	if stats, err := fresh.Stats(t.Context()); err != nil || stats.Blocks != 20 {
		t.Errorf("%+v, %v", stats, err)
	}
	age(t, "gone", 2*time.Hour)
	if _, err := w.Collect(t.Context(), in(kept), nil); err != nil {
		t.Fatal(err)
	}
	if objects(t, "gone") != 0 || objects(t, "car") != objects(t, "idx") || objects(t, "car") >= before {
		t.Errorf("after the grace: %d marks, %d packs, %d indexes", objects(t, "gone"), objects(t, "car"), objects(t, "idx"))
	}
	wantAll(t, old, kept) // it lists again
	wantAll(t, w, kept)
	if found := fsck(t, address); len(found) > 0 {
		t.Error(found)
	}
}

// A block in a marked pack is stored again when it is put, and is saved when keep wants it.
func TestMarkedPacksAreNotCountedOnAndTheirBlocksAreSaved(t *testing.T) {
	t.Parallel()
	address := server.Address(prefix(t))
	blocks := some(7, 20)
	w := open(t, address, bucket.Options{MaxPack: 30_000, Grace: time.Hour})
	fill(t, w, blocks)
	_, err := w.Collect(t.Context(), in(nil), nil)
	check(t, err)
	again := half(blocks)
	for c, data := range again {
		if isNew, err := w.PutNew(t.Context(), c, data); err != nil || !isNew {
			t.Fatalf("new: %v, %v", isNew, err)
		}
	}
	check(t, w.Sync(t.Context()))
	age(t, "gone", 2*time.Hour)
	_, err = w.Collect(t.Context(), in(blocks), nil) // a release wants them all
	check(t, err)
	if objects(t, "gone") != 0 {
		t.Error("marked packs are left")
	}
	check(t, w.Close())
	wantAll(t, open(t, address, bucket.Options{ReadOnly: true}), blocks)
}

func TestCollectRemovesWhatKilledWritersLeft(t *testing.T) {
	t.Parallel()
	address := server.Address(prefix(t))
	blocks := some(8, 3)
	w := open(t, address, bucket.Options{Grace: time.Minute})
	fill(t, w, blocks)
	left := server.Path(prefix(t), "packs/0193aabbccdd-abcdefghijklmnopqrstuvwxyz.car")
	check(t, os.WriteFile(left, []byte("a pack without an index"), 0o644))
	other := server.Path(prefix(t), "packs/README")
	check(t, os.WriteFile(other, []byte("of the operator"), 0o644))
	collect := func() {
		_, err := w.Collect(t.Context(), in(blocks), nil)
		check(t, err)
	}
	collect()
	if _, err := os.Stat(left); err != nil {
		t.Error("removed although another writer may be about to write its index:", err)
	}
	old := time.Now().Add(-2 * time.Hour)
	check(t, os.Chtimes(left, old, old))
	check(t, os.Chtimes(other, old, old))
	collect()
	if _, err := os.Stat(left); err == nil {
		t.Error("left")
	}
	if _, err := os.Stat(other); err != nil {
		t.Error("an object of somebody else is gone")
	}
	wantAll(t, w, blocks)
}

// The test runs itself as a writer that prints the CID of each block after its Sync, and collects
// now and then; the writer is killed at random moments.
func TestAWriterKilledAtAnyMomentLosesNoSyncedBlock(t *testing.T) {
	if address := os.Getenv(childAddress); address != "" {
		childWrites(t, address)
		return
	}
	t.Parallel()
	rounds := 25
	if testing.Short() {
		rounds = 6
	}
	address := server.Address(prefix(t))
	reported := map[cid.Cid][]byte{}
	for round := range rounds {
		age(t, "gone", 2*time.Hour)        // so that collect removes, too
		time.Sleep(100 * time.Millisecond) // a request of the killed writer may still arrive
		lease := server.Path(prefix(t), "lease")
		old := time.Now().Add(-time.Hour)
		if err := os.Chtimes(lease, old, old); err != nil && !errors.Is(err, fs.ErrNotExist) { // no writer has got so far yet
			t.Fatal(err)
		}
		cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestAWriterKilledAtAnyMomentLosesNoSyncedBlock$")
		cmd.Env = append(os.Environ(), childAddress+"="+address, fmt.Sprintf("BUCKET_TEST_ROUND=%d", round))
		out, err := cmd.StdoutPipe()
		check(t, err)
		cmd.Stderr = os.Stderr
		check(t, cmd.Start())
		soon := func() *time.Timer {
			return time.AfterFunc(time.Duration(50+rand.IntN(700))*time.Millisecond, func() { cmd.Process.Kill() })
		}
		kill := time.AfterFunc(time.Minute, func() { cmd.Process.Kill() }) // if it hangs before its first line
		begun := round%2 == 0
		if begun {
			kill.Stop()
			kill = soon() // while it may be opening the store
		}
		for lines := bufio.NewReader(out); ; {
			line, err := lines.ReadString('\n')
			if err != nil {
				break // an incomplete line reports nothing
			}
			c, err := cas.ParseCID(strings.TrimSpace(line))
			if err != nil {
				t.Fatalf("the writer prints %q", line)
			}
			reported[c] = nil
			if !begun {
				begun = true
				kill.Stop()
				kill = soon() // while it puts blocks or collects
			}
		}
		kill.Stop()
		_ = cmd.Wait() // killed: that is its error
	}
	wantAll(t, open(t, address, bucket.Options{ReadOnly: true}), reported)
	if found := fsck(t, address); len(found) > 0 {
		t.Error(found)
	}
	if len(reported) < rounds/2 {
		t.Errorf("%d blocks reported in %d rounds", len(reported), rounds)
	}
	t.Logf("%d kills, %d blocks reported", rounds, len(reported))
}

// childWrites puts blocks of three kinds: every third is garbage for its collections.
func childWrites(t *testing.T, address string) {
	fail := func(err error) {
		if errors.Is(err, pack.ErrBusy) {
			os.Exit(0) // a request of the writer before arrived even later
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, "writer:", err)
			os.Exit(1)
		}
	}
	w, err := bucket.Open(t.Context(), address, bucket.Options{MaxPack: 20_000, Grace: time.Hour})
	fail(err)
	var round int
	fmt.Sscan(os.Getenv("BUCKET_TEST_ROUND"), &round)
	for i := 0; ; i++ {
		data := castest.Bytes(byte(round), 2000+i)
		c := cas.Sum(cid.Raw, data)
		fail(w.Put(t.Context(), c, data))
		fail(w.Sync(t.Context()))
		if !garbage(c) {
			fmt.Println(c)
		}
		if i%5 == 4 {
			_, err := w.Collect(t.Context(), func(c cid.Cid) bool { return !garbage(c) }, nil)
			fail(err)
		}
	}
}

func garbage(c cid.Cid) bool { return c.Hash()[10]%3 == 0 }
