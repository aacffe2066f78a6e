package repo_test

import (
	"errors"
	"io/fs"
	"maps"
	"os"
	"slices"
	"testing"

	"github.com/phaseboot/phaseboot/publisher/pubtest"
)

func TestThePointerIsAPureFunctionOfTheFiles(t *testing.T) {
	w := pubtest.New(t)
	w.Add(w.Sign(1, "v1", w.Release))
	w.Add(w.Sign(2, "v2", w.Release))
	one, err := pubtest.ReadPointer(t.Context(), w.Repo())
	pubtest.Check(t, err)
	want := []string{"1.root.json", "1.targets.json", "2.snapshot.json", "2.stable-x86_64.json", "timestamp.json"}
	if got := slices.Sorted(maps.Keys(one.Files)); !slices.Equal(got, want) {
		t.Errorf("got files %q, want %q", got, want)
	}
	copied := t.TempDir()
	pubtest.Check(t, os.CopyFS(copied+"/repo", os.DirFS(w.Repo())))
	pubtest.Check(t, os.WriteFile(copied+"/repo/notes.txt", []byte("not metadata"), 0o600))
	two, err := pubtest.ReadPointer(t.Context(), copied+"/repo")
	pubtest.Check(t, err)
	if !one.Folder.Equals(two.Folder) {
		t.Errorf("the same files make %s and %s", one.Folder, two.Folder)
	}
	v := w.Verify(pubtest.Folder{Source: one.Blocks, CID: one.Folder.String()})
	if v.Release().Version != "v2" {
		t.Errorf("the folder holds %q", v.Release().Version)
	}
}

func TestARepositoryWithoutAReleaseHasNoPointer(t *testing.T) {
	w := pubtest.New(t)
	if _, err := pubtest.ReadPointer(t.Context(), w.Repo()); !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("got %v", err)
	}
}
