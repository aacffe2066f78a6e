package repo

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/phaseboot/phaseboot/internal/file"
	"github.com/phaseboot/phaseboot/internal/file/filetest"
)

func TestOnlyARegularFileIsALock(t *testing.T) {
	refused := "pipe socket device folder full folder link to a file link to a folder link to a device link to nothing link to itself"
	if os.Getuid() != 0 { // root may read everything
		refused += " unreadable"
	}
	for _, kind := range filetest.Kinds() {
		t.Run(kind.Name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), lockName)
			if err := kind.Make(path, filetest.Outside(t)); err != nil {
				t.Fatal(err)
			}
			filetest.Ends(t, func() {
				release, err := (&Repo{Dir: filepath.Dir(path)}).lock(t.Context())
				if err == nil {
					release()
				} else if !errors.Is(err, file.ErrKind) && !errors.Is(err, os.ErrPermission) {
					t.Errorf("%v", err)
				}
				if (err == nil) != !strings.Contains(refused, kind.Name) {
					t.Errorf("got %v", err)
				}
			})
		})
	}
}
