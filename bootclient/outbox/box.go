package outbox

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/phaseboot/phaseboot/internal/atomicfile"
	"github.com/phaseboot/phaseboot/internal/bootreport"
	"github.com/phaseboot/phaseboot/internal/file"
)

// Limits of a box.
const (
	MaxDocuments = 16
	MaxBytes     = 4 << 20
	maxEntries   = 4 * MaxDocuments // of the folder; more were not made by this program
)

// A Box is a folder with documents that were not delivered.
type Box struct{ Dir string }

// nameForm is the name of a document: milliseconds since 1970 and the ID of the boot.
var nameForm = regexp.MustCompile(`^[0-9]{13}-[0-9a-f]{32}\.json$`)

// Put keeps a document of a boot, in place of an earlier one of the same boot. The oldest documents are removed when
// there are too many.
func (b Box) Put(bootID string, at time.Time, document []byte) error {
	if err := file.CheckFolder(b.Dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
		if err := os.RemoveAll(b.Dir); err != nil { // a link or a file that an attacker made
			return err
		}
	}
	if err := os.MkdirAll(b.Dir, 0o700); err != nil {
		return err
	}
	names, err := b.names()
	if errors.Is(err, file.ErrTooLarge) {
		names, err = nil, errors.Join(os.RemoveAll(b.Dir), os.Mkdir(b.Dir, 0o700))
	}
	if err != nil {
		return err
	}
	keep, bytes := 1, int64(len(document))
	for _, name := range slices.Backward(names) { // the newest first
		info, err := os.Lstat(filepath.Join(b.Dir, name))
		if err != nil {
			continue
		}
		if strings.HasSuffix(name, "-"+bootID+".json") || keep == MaxDocuments || bytes+info.Size() > MaxBytes {
			if err := b.Remove(name); err != nil {
				return err
			}
			continue
		}
		keep, bytes = keep+1, bytes+info.Size()
	}
	name := fmt.Sprintf("%013d-%s.json", min(max(at.UnixMilli(), 0), 9_999_999_999_999), bootID)
	return atomicfile.Write(filepath.Join(b.Dir, name), 0o600, document)
}

// names returns the names of the documents, the oldest first. A missing folder has none.
func (b Box) names() ([]string, error) {
	if err := file.CheckFolder(b.Dir); errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	} else if err != nil {
		return nil, err
	}
	entries, err := file.ReadDir(b.Dir, maxEntries)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, e := range entries {
		if nameForm.MatchString(e.Name()) && e.Type().IsRegular() {
			names = append(names, e.Name())
		}
	}
	slices.Sort(names)
	return names, nil
}

// read returns a document.
func (b Box) read(name string) ([]byte, error) {
	return file.Read(filepath.Join(b.Dir, name), file.NoFollow, bootreport.MaxDocument)
}

// Remove removes a document.
func (b Box) Remove(name string) error { return os.Remove(filepath.Join(b.Dir, name)) }

// Names returns the names of at most MaxDocuments documents, the oldest first. A folder that cannot be read has none.
func (b Box) Names() []string {
	names, err := b.names()
	if err != nil {
		return nil
	}
	return names[max(0, len(names)-MaxDocuments):]
}
