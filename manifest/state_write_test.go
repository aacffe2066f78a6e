package manifest

import (
	"bufio"
	"context"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// interrupted runs another boot while the first waits for its last file.
type interrupted struct {
	files
	meanwhile func()
}

func (f *interrupted) Metadata(ctx context.Context, name string, max int64) ([]byte, error) {
	if do := f.meanwhile; strings.HasSuffix(name, ".stable-x86_64.json") && do != nil {
		f.meanwhile = nil
		do()
	}
	return f.files.Metadata(ctx, name, max)
}

// Two boots share a state. The one that got an older timestamp must not overwrite the newer one of
// the other, although it began first and ends last.
func TestAttackRollbackByTheSlowerOfTwoBoots(t *testing.T) {
	r, dir := newRepo(t), t.TempDir()
	p := r.policy(dir)
	old := maps.Clone(r.files)
	r.stamp(r.online)

	t.Run("valid case: both get the newest timestamp", func(t *testing.T) {
		p := r.policy(t.TempDir())
		r.boot(&interrupted{r.files, func() { r.boot(r.files, p) }}, p)
	})
	t.Run("the slower one gets an older timestamp", func(t *testing.T) {
		f := &interrupted{old, func() { r.boot(r.files, p) }}
		_, err := Verify(context.Background(), f, p)
		refused(t, err, ErrRollback, "timestamp.json version 1: older than version 2, which was seen before")
		_, err = Verify(context.Background(), old, p)
		refused(t, err, ErrRollback, "older than version 2")
		r.boot(r.files, p)
	})
}

// After a power cut the state must be a whole set of files, the old one or the new one. Otherwise the
// last good release cannot be booted.
func TestStateKilledWhileItIsWrittenIsTheOldOrTheNew(t *testing.T) {
	if dir := os.Getenv("PHASE_KILL"); dir != "" {
		writeForEver(t, dir)
		return
	}
	r, dir := newRepo(t), t.TempDir()
	p := r.policy(dir)
	r.boot(r.files, p)
	for i := range 12 {
		cmd := exec.Command(os.Args[0], "-test.run", "^TestStateKilledWhileItIsWrittenIsTheOldOrTheNew$")
		cmd.Env = append(os.Environ(), "PHASE_KILL="+dir)
		out, err := cmd.StdoutPipe()
		r.ok(err)
		r.ok(cmd.Start())
		if _, err := bufio.NewReader(out).ReadByte(); err != nil { // it has begun
			t.Fatal(err)
		}
		time.Sleep(time.Duration(i) * 3 * time.Millisecond) // a power cut comes at any time
		r.ok(cmd.Process.Kill())
		_, _ = io.Copy(io.Discard, out)
		_ = cmd.Wait()
		if _, err := LastGood(context.Background(), p); err != nil {
			t.Fatalf("after kill %d: %v", i, err)
		}
	}
}

// writeForEver boots one release after another until it is killed.
func writeForEver(t *testing.T, dir string) {
	r := newRepo(t)
	p := r.policy(dir)
	os.Stdout.WriteString("begun\n")
	for {
		r.publish(r.newTargets(), r.release("stable", "x86_64", "2026.11"))
		_, _ = Verify(context.Background(), r.files, p) // releases from before the last kill are refused
	}
}

func TestReplaceFolderWorksWithoutExchange(t *testing.T) {
	dir := t.TempDir()
	next, at := filepath.Join(dir, "next"), filepath.Join(dir, "at")
	for _, path := range []string{next, at} {
		if err := os.Mkdir(path, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(next, "new"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := replaceFolder(next, at); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(at, "new")); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(next); err == nil {
		t.Error("the new folder is at both places")
	}
}
