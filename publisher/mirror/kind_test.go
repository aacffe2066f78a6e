package mirror

import (
	"errors"
	"strings"
	"testing"

	"github.com/phaseboot/phaseboot/cas"
	openfile "github.com/phaseboot/phaseboot/internal/file"
	"github.com/phaseboot/phaseboot/internal/file/filetest"
)

func TestEveryKindOfFileThatIsALedger(t *testing.T) {
	filetest.OpenEveryKind(t, "ledger", func(path string) error { _, err := readLedger(path); return err }, func(_ filetest.Kind, err error) bool {
		return errors.Is(err, cas.ErrCorrupt) || errors.Is(err, openfile.ErrKind) || strings.Contains(err.Error(), "too many levels of symbolic links")
	})
}
