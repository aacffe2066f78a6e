package repo_test

import (
	"errors"
	"io/fs"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/phaseboot/phaseboot/manifest"
	"github.com/phaseboot/phaseboot/publisher/pubtest"
	"github.com/phaseboot/phaseboot/publisher/repo"
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

func TestAPointerReplacesNoNewerOne(t *testing.T) {
	w := pubtest.New(t)
	w.Add(w.Sign(1, "v1", w.Release))
	pointer := func() *repo.Pointer {
		t.Helper()
		p, err := pubtest.ReadPointer(t.Context(), w.Repo())
		pubtest.Check(t, err)
		return p
	}
	one := pointer()
	w.Add(w.Sign(2, "v2", w.Release))
	two := pointer()
	w.NextRoot(2, w.Root)
	rooted := pointer()
	renewed := *one // of a restored backup
	renewed.Timestamp = 9
	w.Online = pubtest.NewKey(t)
	w.NextRoot(3, w.Root)
	replaced := *one
	replaced.Files = pointer().Files
	for _, row := range []struct {
		name    string
		p, old  *repo.Pointer
		refused string
	}{
		{"the same", one, one, ""},
		{"a newer one", two, one, ""},
		{"an older timestamp", one, two, "timestamp version 1 is older than version 2"},
		{"a timestamp that was signed again, of an older snapshot", &renewed, two, "snapshot version 1 is older than version 2"},
		{"a newer root", rooted, two, ""},
		{"an older root", two, rooted, "root version 1 is older than version 2"},
		{"an older timestamp after the online key was replaced", &replaced, two, ""},
	} {
		err := row.p.CheckReplaces(row.old.Files.Timestamp(), row.old.Files.Root())
		if row.refused == "" && err != nil || row.refused != "" && (!errors.Is(err, manifest.ErrRollback) || !strings.Contains(err.Error(), row.refused)) {
			t.Errorf("%s: %v", row.name, err)
		}
	}
}
