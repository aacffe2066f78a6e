package publisher

import (
	"errors"
	"strings"
	"testing"

	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/internal/file"
	"github.com/phaseboot/phaseboot/internal/file/filetest"
	"github.com/phaseboot/phaseboot/publisher/store"
)

func TestEveryKindOfFileThatAPublisherOpens(t *testing.T) {
	known := func(_ filetest.Kind, err error) bool {
		return errors.Is(err, cas.ErrCorrupt) || errors.Is(err, file.ErrKind) || strings.Contains(err.Error(), "too many levels of symbolic links")
	}
	filetest.OpenEveryKind(t, "identity", func(path string) error {
		_, release, err := lockIdentity(path)
		if err == nil {
			release()
		}
		return err
	}, known)
	filetest.OpenEveryKind(t, "store", func(path string) error {
		s, err := store.Open(t.Context(), path, nil)
		if err == nil {
			err = s.Close()
		}
		return err
	}, known)
}
