package publisher

import (
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/phaseboot/phaseboot/cas"
	openfile "github.com/phaseboot/phaseboot/internal/file"
	"github.com/phaseboot/phaseboot/internal/file/filetest"
)

// Whatever kind of file has the name of one that a publisher opens, to open it ends, with an
// error of its class, and changes nothing behind a link.
func TestEveryKindOfFileThatAPublisherOpens(t *testing.T) {
	cells := 0
	for _, kind := range filetest.Kinds() {
		for name, open := range map[string]func(path string) error{
			"identity": func(path string) error {
				_, release, err := holdIdentity(path)
				if err == nil {
					release()
				}
				return err
			},
			"ledger": func(path string) error { _, err := readLedger(path); return err },
			".lock": func(path string) error {
				release, err := (&repo{dir: filepath.Dir(path)}).lock(t.Context())
				if err == nil {
					release()
				}
				return err
			},
			"store": func(path string) error {
				s, err := openStore(path, slog.New(slog.DiscardHandler))
				if err == nil {
					err = s.Close()
				}
				return err
			},
		} {
			cells++
			t.Run(kind.Name+"/"+name, func(t *testing.T) {
				path := filepath.Join(t.TempDir(), name)
				if err := kind.Make(path, filetest.Outside(t)); err != nil {
					t.Fatal(err)
				}
				filetest.Ends(t, func() {
					err := open(path)
					refused := "pipe socket device folder full folder link to a file link to a folder link to a device link to nothing link to itself"
					if os.Getuid() != 0 { // who may read everything
						refused += " unreadable"
					}
					if name == ".lock" && (err == nil) != !strings.Contains(refused, kind.Name) {
						t.Errorf("the lock: %v", err)
					}
					known := err == nil || errors.Is(err, cas.ErrCorrupt) || errors.Is(err, openfile.ErrKind) || errors.Is(err, fs.ErrNotExist) ||
						errors.Is(err, fs.ErrInvalid) || errors.Is(err, fs.ErrPermission) || strings.Contains(err.Error(), "too many levels of symbolic links")
					if !known {
						t.Errorf("%v", err)
					}
				})
			})
		}
	}
	t.Logf("%d cells", cells)
}
