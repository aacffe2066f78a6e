package publisher

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"testing"

	"github.com/phaseboot/phaseboot/cas"
)

func TestTheHeadIsAPureFunctionOfTheFiles(t *testing.T) {
	w := newWorld(t)
	w.add(w.sign(1, "v1", w.release))
	w.add(w.sign(2, "v2", w.release))
	one, err := ReadHead(t.Context(), w.repo())
	check(t, err)
	want := []string{"1.root.json", "1.targets.json", "2.snapshot.json", "2.stable-x86_64.json", "timestamp.json"}
	if fmt.Sprint(one.Names) != fmt.Sprint(want) {
		t.Errorf("got files %q, want %q", one.Names, want)
	}
	copied := t.TempDir()
	check(t, os.CopyFS(copied+"/repo", os.DirFS(w.repo())))
	check(t, os.WriteFile(copied+"/repo/notes.txt", []byte("not metadata"), 0o600))
	two, err := ReadHead(t.Context(), copied+"/repo")
	check(t, err)
	if !one.Folder.Equals(two.Folder) {
		t.Errorf("the same files make %s and %s", one.Folder, two.Folder)
	}
	v := w.verify(folder{one.blocks, one.Folder.String()})
	if v.Release().Version != "v2" {
		t.Errorf("the folder holds %q", v.Release().Version)
	}
}

func TestARepositoryWithoutAReleaseHasNoHead(t *testing.T) {
	w := newWorld(t)
	if _, err := ReadHead(t.Context(), w.repo()); !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("got %v", err)
	}
}

func TestTheLastGenerationsStayReadable(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	heads := newHeads(cas.NewMemory())
	var all []*Head
	for i := range generations + 1 {
		w.add(w.sign(int64(i+1), fmt.Sprintf("v%d", i+1), w.release))
		h, err := ReadHead(t.Context(), w.repo())
		check(t, err)
		heads.add(h)
		all = append(all, h)
	}
	for i, h := range all {
		_, err := cas.Get(t.Context(), heads, h.Folder)
		if i == 0 && !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("the oldest: %v, want not found", err)
		} else if i > 0 && err != nil {
			t.Errorf("generation %d: %v", i+1, err)
		}
	}
}
