package manifest

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/phaseboot/phaseboot/internal/file/filetest"
)

// A faultyDisk fails a number of operations with an error.
type faultyDisk struct {
	disk
	err     error
	healthy int // operations before the first that fails
	times   int // operations that fail
	ops     int
}

func (d *faultyDisk) fault() error {
	d.ops++
	if d.ops > d.healthy && d.ops <= d.healthy+d.times {
		return d.err
	}
	return nil
}

func (d *faultyDisk) stat(path string) (fs.FileInfo, error) {
	if err := d.fault(); err != nil {
		return nil, err
	}
	return d.disk.stat(path)
}

func (d *faultyDisk) list(dir string) ([]fs.DirEntry, error) {
	if err := d.fault(); err != nil {
		return nil, err
	}
	return d.disk.list(dir)
}

func (d *faultyDisk) read(path string, max int64) ([]byte, error) {
	if err := d.fault(); err != nil {
		return nil, err
	}
	return d.disk.read(path, max)
}

// on replaces the disk of a policy's state. pauses counts the retries.
func (d *faultyDisk) on(p Policy, pauses *int) Policy {
	d.disk = osDisk{}
	p.State.disk = retryingDisk{d, func(time.Duration) { *pauses++ }}
	return p
}

// One operation on the state fails, each in turn, with each kind of error: an older release is never
// accepted, and the state does not change.
func TestAFaultyDiskLowersNoFloor(t *testing.T) {
	const forever = 1 << 30
	r, dir := newRepo(t), t.TempDir()
	r.boot(r.files, r.policy(dir))
	old := maps.Clone(r.files)
	r.newRoot(r.roots...)
	r.publish(r.newTargets(), r.release("stable", "x86_64", "2026.11"))
	r.boot(r.files, r.policy(dir))
	before := tree(t, dir)
	for _, errno := range []error{unix.EMFILE, unix.ENFILE, unix.EIO, unix.ENOMEM, unix.EACCES, unix.EINTR, unix.ESTALE, context.DeadlineExceeded} {
		t.Run(errno.Error(), func(t *testing.T) {
			for healthy := 0; ; healthy++ {
				pauses := 0
				d := &faultyDisk{err: errno, healthy: healthy, times: forever}
				_, err := Verify(context.Background(), old, d.on(r.policy(dir), &pauses))
				if d.ops <= healthy {
					refused(t, err, ErrRollback, "older than version")
					if healthy < 5 {
						t.Fatalf("a check takes %d operations only", healthy)
					}
					break
				}
				if !errors.Is(err, ErrState) && !errors.Is(err, ErrRollback) || pauses == 0 {
					t.Errorf("operation %d: %v after %d pauses", healthy, err, pauses)
				}
				d = &faultyDisk{err: errno, healthy: healthy, times: forever}
				if v, err := Verify(context.Background(), r.files, d.on(r.policy(dir), &pauses)); err == nil && len(v.Notes()) == 0 {
					t.Errorf("operation %d: the valid release was accepted without a note", healthy)
				} else if err != nil && !errors.Is(err, ErrState) {
					t.Errorf("operation %d: %v", healthy, err)
				}
				d = &faultyDisk{err: errno, healthy: healthy, times: len(retries)}
				if _, err := Verify(context.Background(), r.files, d.on(r.policy(dir), &pauses)); err != nil {
					t.Errorf("operation %d fails %d times: %v", healthy, d.times, err)
				}
				d = &faultyDisk{err: errno, healthy: healthy, times: forever}
				if v, err := LastGood(context.Background(), d.on(r.policy(dir), &pauses)); err == nil && v.Release().Version != "2026.11" {
					t.Errorf("operation %d: the last good release is %s", healthy, v.Release().Version)
				}
			}
			if !maps.Equal(before, tree(t, dir)) {
				t.Error("the state was changed")
			}
		})
	}
}

// When the state is replaced because of a new release of one channel, the floor of another channel
// is never lost.
func TestAFaultyDiskLosesNoOtherChannel(t *testing.T) {
	r, dir := newRepo(t), t.TempDir()
	r.publish(r.release("edge", "x86_64", "2026.10"))
	edge := r.policy(dir)
	edge.Channel = "edge"
	r.boot(r.files, edge)
	r.publish(r.release("stable", "x86_64", "2026.11"))
	for healthy := range 200 {
		copied := t.TempDir()
		if err := os.CopyFS(copied, os.DirFS(dir)); err != nil {
			t.Fatal(err)
		}
		pauses := 0
		d := &faultyDisk{err: unix.EIO, healthy: healthy, times: 1 << 30}
		_, _ = Verify(context.Background(), r.files, d.on(r.policy(copied), &pauses))
		if found, err := filepath.Glob(filepath.Join(copied, "*", "edge-x86_64.json")); err != nil || len(found) != 1 {
			t.Fatalf("operation %d: %q, %v", healthy, found, err)
		}
		if d.ops <= healthy {
			return
		}
	}
	t.Error("a check never ends")
}

// An error of a damaged file system counts as a damaged file, because no retry repairs it.
func TestAFileOnADamagedFileSystemCountsAsMissing(t *testing.T) {
	for _, errno := range []error{unix.EUCLEAN, unix.EBADMSG} {
		r, dir := newRepo(t), t.TempDir()
		r.boot(r.files, r.policy(dir))
		pauses := 0
		d := &faultyDisk{err: errno, healthy: 2, times: 1}
		v, err := Verify(context.Background(), r.files, d.on(r.policy(dir), &pauses))
		if err != nil || len(v.Notes()) != 1 || pauses != 0 {
			t.Errorf("%v: %v, %v, %d pauses", errno, v, err, pauses)
		}
	}
}

// An attacker has replaced a file of the state by each kind of file: a check ends, ignores the file,
// and changes nothing outside the state.
func TestEveryKindOfFileInTheState(t *testing.T) {
	cells := 0
	for _, kind := range filetest.Kinds() {
		for _, name := range []string{".", "ID", "ID.next", "ID/1.root.json", "ID/2.root.json", "ID/timestamp.json", "ID/snapshot.json", "ID/targets.json", "ID/stable-x86_64.json", "ID/edge-x86_64.json"} {
			if cells++; testing.Short() && cells%3 != 0 { // a sample of each kind and each name
				continue
			}
			t.Run(kind.Name+"/"+name, func(t *testing.T) {
				if kind.Name == "unreadable" && os.Getuid() != 0 {
					return // it is ErrState: TestAFaultyDiskLowersNoFloor
				}
				r, dir := newRepo(t), filepath.Join(t.TempDir(), "trust")
				r.newRoot(r.roots...)
				r.publish()
				r.boot(r.files, r.policy(dir))
				root, err := ParseRoot(r.root)
				r.ok(err)
				path := filepath.Join(dir, filepath.FromSlash(name))
				if rest, ok := cutID(name); ok {
					path = filepath.Join(dir, root.stateID()+rest)
				}
				r.ok(errors.Join(os.RemoveAll(path), kind.Make(path, filetest.Outside(t))))
				filetest.Ends(t, func() {
					p := r.policy("")
					p.State = OpenStateReadOnly(dir)
					if _, err := Verify(context.Background(), r.files, p); err != nil {
						t.Errorf("read only: %v", err)
					}
					s, err := OpenState(dir)
					if err != nil && name == "." {
						return // the error is reported, and no state is written
					}
					p.State = s
					if _, err := Verify(context.Background(), r.files, p); err != nil {
						t.Error(errors.Join(err, fmt.Errorf("with a state at %s", dir)))
					}
					if v, err := Verify(context.Background(), r.files, p); err != nil || len(v.Notes()) != 0 {
						t.Errorf("not repaired: %v, %v", v, err)
					}
				})
			})
		}
	}
	t.Logf("%d cells", cells)
}

func cutID(name string) (rest string, ok bool) {
	if len(name) < 2 || name[:2] != "ID" {
		return "", false
	}
	return name[2:], true
}
