package queue

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/phaseboot/phaseboot/cas"
)

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// open opens a store that is closed at the end of the test.
func open(t *testing.T, dir string, o Options) *Queue {
	t.Helper()
	q, err := Open(dir, o)
	check(t, err)
	t.Cleanup(func() { q.Close() })
	return q
}

// id returns the ID of a job with a number.
func id(n int) string {
	sum := sha256.Sum256(fmt.Append(nil, n))
	return hex.EncodeToString(sum[:])
}

var ci = strings.Repeat("c1", 32)

// submit accepts a job with a number, of a submitter, with a module and an input.
func submit(q *Queue, n int, key, module, input string) (Job, error) {
	s := Submission{Job: Job{ID: id(n), Name: fmt.Sprint("job", n), Key: key, Submitter: key, Spec: json.RawMessage(`{"limits":1}`), OutputLimit: 100}}
	for _, part := range []struct {
		to   **Upload
		text string
	}{{&s.ModuleBytes, module}, {&s.InputBytes, input}} {
		if part.text == "" {
			continue
		}
		u, err := q.NewUpload(key, 1<<20)
		if err != nil {
			return Job{}, err
		}
		defer u.Discard()
		if _, err := io.WriteString(u, part.text); err != nil {
			return Job{}, err
		}
		*part.to = u
	}
	return q.Accept(s)
}

// claim claims a job that must be there.
func claim(t *testing.T, q *Queue) Job {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	j, err := q.Claim(ctx, nil)
	check(t, err)
	return j
}

// run claims the next job, runs it with an output, and finishes it.
func run(t *testing.T, q *Queue, output string) Job {
	t.Helper()
	j := claim(t, q)
	out, err := q.Begin(j.ID, Module{CID: "bafy", SHA256: id(1), Length: 3}, time.Now())
	check(t, err)
	check(t, out.Write(Stdout, []byte(output)))
	check(t, out.Close())
	check(t, q.Finish(j.ID, Result{Reason: "exit"}, []byte("receipt of "+j.Name)))
	return j
}

// files lists the blobs and outputs in a store.
func files(t *testing.T, dir string) (out []string) {
	t.Helper()
	for _, sub := range []string{blobDir, outputDir} {
		entries, err := os.ReadDir(filepath.Join(dir, sub))
		check(t, err)
		for _, e := range entries {
			out = append(out, sub+"/"+e.Name())
		}
	}
	return out
}

func TestAJobGoesThroughItsStates(t *testing.T) {
	dir := t.TempDir()
	q := open(t, dir, Options{})
	j, err := submit(q, 1, "", "module", "input")
	check(t, err)
	if j.State != Waiting || j.ExitCode != -1 || j.Length != 6 || j.InputLength != 5 {
		t.Fatalf("accepted as %+v", j)
	}
	if got := claim(t, q); got.ID != j.ID || got.State != Claimed {
		t.Fatalf("claimed %+v", got)
	}
	f, err := q.OpenModule(j)
	check(t, err)
	data, _ := io.ReadAll(f)
	f.Close()
	if string(data) != "module" {
		t.Errorf("the module is %q", data)
	}
	spec, err := q.Spec(j.ID)
	if err != nil || string(spec) != `{"limits":1}` {
		t.Errorf("spec %s, %v", spec, err)
	}
	out, err := q.Begin(j.ID, Module{CID: "bafy", SHA256: j.Digest, Length: 6}, time.Now())
	check(t, err)
	check(t, errors.Join(out.Write(Stdout, []byte("one")), out.Write(Stderr, []byte("two")), out.Write(Stdout, []byte("three")), out.Close()))
	check(t, q.Finish(j.ID, Result{Reason: "exit", ExitCode: 3}, []byte("receipt")))

	if err := q.Finish(j.ID, Result{Reason: "again"}, []byte("another")); !errors.Is(err, ErrDone) {
		t.Errorf("finished twice: %v", err)
	}
	check(t, q.Close())
	q = open(t, dir, Options{})
	got, ok := q.Get(j.ID)
	if !ok || got.State != Done || got.Reason != "exit" || got.ExitCode != 3 || got.Module != "bafy" || got.Started.IsZero() || got.Ended.IsZero() {
		t.Errorf("after a restart: %+v, %v", got, ok)
	}
	if r, err := q.Receipt(j.ID); err != nil || string(r) != "receipt" {
		t.Errorf("receipt %q, %v", r, err)
	}
	if text := outputOf(t, q, j.ID, false); text != "0:one 1:two 0:three " {
		t.Errorf("output %q", text)
	}
	if left := files(t, dir); len(left) != 1 {
		t.Errorf("files left: %v", left)
	}
}

func outputOf(t *testing.T, q *Queue, id string, wait bool) string {
	t.Helper()
	var text strings.Builder
	check(t, q.Follow(t.Context(), id, wait, func(stream int, p []byte) error {
		fmt.Fprintf(&text, "%d:%s ", stream, p)
		return nil
	}))
	return text.String()
}

func TestOutputIsFollowedUntilTheEnd(t *testing.T) {
	q := open(t, t.TempDir(), Options{})
	j, err := submit(q, 1, "", "module", "")
	check(t, err)
	got := make(chan string)
	seen := make(chan struct{}, 10)
	go func() {
		var text strings.Builder
		_ = q.Follow(t.Context(), j.ID, true, func(_ int, p []byte) error {
			text.Write(p)
			seen <- struct{}{}
			return nil
		})
		got <- text.String()
	}()
	claim(t, q)
	out, err := q.Begin(j.ID, Module{}, time.Now())
	check(t, err)
	for _, part := range []string{"a", "b", "c"} {
		check(t, out.Write(Stdout, []byte(part)))
		<-seen // while the job runs
	}
	check(t, errors.Join(out.Close(), q.Finish(j.ID, Result{Reason: "exit"}, nil)))
	if text := <-got; text != "abc" {
		t.Errorf("followed %q", text)
	}
}

func TestARestartInterruptsRunningJobsAndRunsWaitingOnes(t *testing.T) {
	dir := t.TempDir()
	q := open(t, dir, Options{})
	for n := range 3 {
		_, err := submit(q, n, "", "module", "")
		check(t, err)
	}
	running := claim(t, q)
	_, err := q.Begin(running.ID, Module{CID: "bafy", SHA256: id(1), Length: 3}, time.Now())
	check(t, err)
	claimed := claim(t, q)
	check(t, os.WriteFile(filepath.Join(dir, blobDir, tempPrefix+"1"), []byte("half an upload"), 0o600))
	check(t, os.WriteFile(filepath.Join(dir, outputDir, id(9)), nil, 0o600))
	check(t, q.db.Close()) // as a killed process leaves it

	q = open(t, dir, Options{})
	found := q.Interrupted()
	if len(found) != 1 || found[0].ID != running.ID {
		t.Fatalf("interrupted: %+v", found)
	}
	check(t, q.Finish(running.ID, Result{Reason: "interrupted"}, []byte("receipt")))
	if got := run(t, q, "x"); got.ID != claimed.ID {
		t.Errorf("ran %s first", got.Name)
	}
	run(t, q, "x")
	if left := files(t, dir); len(left) != 3 { // an output for each
		t.Errorf("files left: %v", left)
	}
}

func TestJobsWithTheSameModuleShareIt(t *testing.T) {
	dir := t.TempDir()
	q := open(t, dir, Options{})
	for n := range 3 {
		_, err := submit(q, n, "", "module", "module") // and the same as input
		check(t, err)
	}
	if left := files(t, dir); len(left) != 1 {
		t.Fatalf("files: %v", left)
	}
	for range 3 {
		if len(files(t, dir)) < 1 {
			t.Fatal("the module of a waiting job is gone")
		}
		run(t, q, "")
	}
	for _, f := range files(t, dir) {
		if strings.HasPrefix(f, blobDir) {
			t.Errorf("%s is left", f)
		}
	}
}

func TestSubmittersTakeTurnsAndLeaveRoom(t *testing.T) {
	q := open(t, t.TempDir(), Options{MaxWaiting: 8})
	accepted := 0
	var err error
	for n := range 10 {
		if _, err = submit(q, n, ci, "", ""); err == nil {
			accepted++
		}
	}
	if accepted != 4 || !errors.Is(err, ErrFull) || !strings.Contains(err.Error(), "for others") {
		t.Fatalf("one submitter has %d of 8 places: %v", accepted, err)
	}
	if _, err := submit(q, 20, "", "", ""); err != nil {
		t.Fatalf("the other one: %v", err)
	}
	if first, second := claim(t, q), claim(t, q); first.Key == second.Key {
		t.Errorf("%s and %s have one submitter", first.Name, second.Name)
	}
}

func TestTheReleaseLimitsTheJobsOfASubmitter(t *testing.T) {
	q := open(t, t.TempDir(), Options{})
	two := func(n int) error {
		_, err := q.Accept(Submission{Job: Job{ID: id(n), Key: ci, Submitter: "ci"}, Limit: 2})
		return err
	}
	check(t, errors.Join(two(1), two(2)))
	claim(t, q)
	if err := two(3); !errors.Is(err, ErrFull) || !strings.Contains(err.Error(), `2 jobs of submitter "ci" wait or run`) {
		t.Errorf("a third: %v", err)
	}
	check(t, q.Finish(id(1), Result{Reason: "cancelled"}, nil))
	check(t, two(3))
}

func TestANonceIsAcceptedOnce(t *testing.T) {
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	dir := t.TempDir()
	o := Options{Now: func() time.Time { return now }, MaxNonces: 3}
	q := open(t, dir, o)
	order := func(n int, nonce string) error {
		_, err := q.Accept(Submission{Job: Job{ID: id(n), Key: ci}, Nonce: &Nonce{ci, nonce, now.Add(time.Hour)}})
		return err
	}
	check(t, order(1, "aa"))
	if err := order(2, "aa"); !errors.Is(err, ErrReplay) {
		t.Errorf("the same nonce: %v", err)
	}
	if err := order(1, "bb"); !errors.Is(err, ErrReplay) {
		t.Errorf("the same job: %v", err)
	}
	check(t, q.Close())
	q = open(t, dir, o)
	if err := order(2, "aa"); !errors.Is(err, ErrReplay) {
		t.Errorf("the same nonce after a restart: %v", err)
	}
	check(t, errors.Join(order(2, "bb"), order(3, "cc")))
	if err := order(4, "dd"); !errors.Is(err, ErrFull) {
		t.Errorf("too many orders: %v", err)
	}
	now = now.Add(2 * time.Hour)
	check(t, order(4, "dd")) // the expired ones are forgotten
	now = now.Add(-2 * time.Hour)
	if err := order(5, "aa"); !errors.Is(err, ErrReplay) {
		t.Errorf("a forgotten nonce after the clock was set back: %v", err)
	}
}

// A machine whose clock was a year ahead for some minutes accepts orders when it is right again, and no replay.
func TestAClockThatWasAheadRefusesOnlyReplays(t *testing.T) {
	right := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	now := right
	dir := t.TempDir()
	o := Options{Now: func() time.Time { return now }}
	q := open(t, dir, o)
	order := func(n int, nonce string, life time.Duration) error {
		_, err := q.Accept(Submission{Job: Job{ID: id(n), Key: ci}, Nonce: &Nonce{ci, nonce, now.Add(life)}})
		return err
	}
	check(t, order(1, "aa", time.Hour))
	now = right.AddDate(1, 0, 0)
	check(t, q.Prune())
	now = right.Add(time.Minute)
	for range 2 { // and after a restart
		if err := order(2, "aa", time.Hour-time.Minute); !errors.Is(err, ErrReplay) {
			t.Errorf("the replay: %v", err)
		}
		check(t, q.Close())
		q = open(t, dir, o)
	}
	check(t, order(3, "bb", 2*time.Hour))
}

func TestFinishedJobsAreDroppedByCountAgeAndBytes(t *testing.T) {
	now := time.Now()
	q := open(t, t.TempDir(), Options{MaxJobs: 4, MaxWaiting: 4, MaxAge: time.Hour, Now: func() time.Time { return now }})
	all := func(Job) bool { return true }
	submitRun := func(n int, key string) {
		t.Helper()
		_, err := submit(q, n, key, "m", "")
		check(t, err)
		run(t, q, "output")
	}
	submitRun(1, "")
	for n := 2; n < 8; n++ {
		submitRun(n, ci)
	}
	if n := len(q.List(all)); n != 4 {
		t.Errorf("%d jobs are stored", n)
	}
	if _, ok := q.Get(id(1)); !ok {
		t.Error("the flood of another submitter dropped the job")
	}
	now = now.Add(2 * time.Hour)
	check(t, q.Prune())
	if n := len(q.List(all)); n != 0 {
		t.Errorf("%d old jobs are stored", n)
	}
	if f := q.Figures(); f.Bytes != 0 || len(files(t, q.dir)) != 0 {
		t.Errorf("left: %+v, %v", f, files(t, q.dir))
	}
}

func TestBytesAreBounded(t *testing.T) {
	const room = 4 * recordOverhead
	q := open(t, t.TempDir(), Options{MaxBytes: room})
	big := strings.Repeat("x", 3*recordOverhead/2)
	if _, err := submit(q, 1, "", big, big+"y"); !errors.Is(err, ErrFull) {
		t.Errorf("more than there is room: %v", err)
	}
	if f := q.Figures(); f.Bytes != 0 || len(files(t, q.dir)) != 0 {
		t.Errorf("a refused job left %+v, %v", f, files(t, q.dir))
	}
	for n := range 5 { // each drops the one before
		_, err := submit(q, 10+n, "", big+fmt.Sprint(n), "")
		check(t, err)
		run(t, q, "")
	}
	if f := q.Figures(); f.Bytes > room {
		t.Errorf("%d bytes in use, the limit is %d", f.Bytes, room)
	}
}

// A submitter whose jobs or uploads are large drops its own finished jobs, not the receipts of others that take
// less.
func TestLargeJobsAndUploadsOfOneDropNoReceiptsOfOthers(t *testing.T) {
	const room = 40 * recordOverhead
	honest := strings.Repeat("a1", 32)
	large := func(t *testing.T, q *Queue) {
		t.Helper()
		for n := range 8 {
			s := Submission{Job: Job{ID: id(100 + n), Name: "large", Key: ci, OutputLimit: 8 * recordOverhead}}
			_, err := q.Accept(s)
			check(t, err)
			run(t, q, strings.Repeat("x", 8*recordOverhead))
		}
	}
	for _, tt := range []struct {
		name string
		take func(t *testing.T, q *Queue)
	}{
		{"finished jobs", large},
		{"aborted uploads", func(t *testing.T, q *Queue) {
			for range 3 {
				u, err := q.NewUpload(ci, 2*room)
				check(t, err)
				for err == nil {
					_, err = u.Write(make([]byte, recordOverhead))
				}
				if !errors.Is(err, ErrFull) {
					t.Errorf("the upload: %v", err)
				}
				u.Discard()
			}
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			q := open(t, t.TempDir(), Options{MaxBytes: room})
			for n := range 10 {
				_, err := submit(q, n, honest, "m", "")
				check(t, err)
				run(t, q, "output")
			}
			tt.take(t, q)
			if jobs := q.List(func(j Job) bool { return j.Key == honest }); len(jobs) != 10 {
				t.Errorf("%d of 10 receipts are left", len(jobs))
			}
			if f := q.Figures(); f.Bytes > room || len(q.uploads) != 0 {
				t.Errorf("%d bytes in use, the limit is %d; uploads %v", f.Bytes, room, q.uploads)
			}
			_, err := submit(q, 50, honest, "m", "") // and there is room for another
			check(t, err)
		})
	}
}

func TestAnOutputHasTheRoomThatWasReserved(t *testing.T) {
	q := open(t, t.TempDir(), Options{})
	_, err := submit(q, 1, "", "m", "")
	check(t, err)
	j := claim(t, q)
	out, err := q.Begin(j.ID, Module{}, time.Now())
	check(t, err)
	for range 50 { // the worst case: frames of one byte on changing streams
		check(t, errors.Join(out.Write(Stdout, []byte("x")), out.Write(Stderr, []byte("y"))))
	}
	if err := out.Write(Stdout, []byte("x")); err == nil {
		t.Error("more than the limit was stored")
	}
	out.Close()
}

func TestASecondProcessIsRefusedInOneLine(t *testing.T) {
	dir := t.TempDir()
	open(t, dir, Options{})
	_, err := Open(dir, Options{})
	if err == nil || !strings.Contains(err.Error(), "another plasmd uses it") || strings.Contains(err.Error(), "\n") {
		t.Errorf("got %v", err)
	}
}

func TestADamagedDatabaseIsRefusedInOneLine(t *testing.T) {
	dir := t.TempDir()
	q := open(t, dir, Options{})
	for n := range 30 {
		_, err := submit(q, n, "", "m", "")
		check(t, err)
	}
	check(t, q.Close())
	whole, err := os.ReadFile(filepath.Join(dir, dbFile))
	check(t, err)
	damage := map[string]func([]byte) []byte{
		"empty of zeros": func(b []byte) []byte { return make([]byte, len(b)) },
		"cut in half":    func(b []byte) []byte { return b[:len(b)/2] },
		"cut to metas":   func(b []byte) []byte { return b[:8192] },
		"text":           func([]byte) []byte { return []byte(strings.Repeat("text ", 5000)) },
	}
	for at := 8192; at < len(whole); at += 4096 {
		damage[fmt.Sprintf("page at %d", at)] = func(b []byte) []byte {
			return append(append(bytes.Clone(b[:at]), bytes.Repeat([]byte{0xff}, 4096)...), b[at+4096:]...)
		}
	}
	for name, change := range damage {
		path := filepath.Join(dir, dbFile)
		check(t, errors.Join(os.Remove(path), os.WriteFile(path, change(whole), 0o600))) // the old one may stay mapped
		q, err := Open(dir, Options{})
		if err == nil { // a page that is free
			q.Close()
			continue
		}
		if !errors.Is(err, cas.ErrCorrupt) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestPrivateModeRefusesADisk(t *testing.T) {
	memory, err := os.MkdirTemp("/dev/shm", "queue")
	check(t, err)
	t.Cleanup(func() { os.RemoveAll(memory) })
	q := open(t, filepath.Join(memory, "state"), Options{Memory: true})
	_, err = submit(q, 1, "", "m", "i")
	check(t, err)
	run(t, q, "out")

	disk, err := os.MkdirTemp(".", "testdata-") // the sources are on a disk, or this proves less
	check(t, err)
	t.Cleanup(func() { os.RemoveAll(disk) })
	for _, state := range []string{disk, filepath.Join(disk, "new", "state")} {
		if _, err := Open(state, Options{Memory: true}); !inMemory(disk) && !errors.Is(err, fs.ErrInvalid) {
			t.Errorf("on a disk: %v", err)
		}
	}
	if left, err := os.ReadDir(disk); !inMemory(disk) && (err != nil || len(left) > 0) {
		t.Errorf("on a disk it has made %v, %v", left, err)
	}
}
