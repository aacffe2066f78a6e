package peers

import (
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"

	"github.com/phaseboot/phaseboot/cas"
)

// ErrNoMirror says that the folder of a file:// mirror is missing. The mirror counts as
// unreachable, not as empty: the medium may be mounted later.
var ErrNoMirror = fmt.Errorf("%w: no such folder; check the path, or mount what holds it", cas.ErrUnreachable)

// checkMirrorFolder returns an error that wraps errNoMirror if base is a file:// URL without
// a folder behind it.
func checkMirrorFolder(base string) error {
	u, err := url.Parse(base)
	if err != nil || u.Scheme != "file" {
		return nil
	}
	info, err := os.Stat(u.Path + "/")
	switch {
	case errors.Is(err, fs.ErrNotExist), err == nil && !info.IsDir():
		return ErrNoMirror
	case err != nil:
		return fmt.Errorf("%w: %w", ErrNoMirror, err)
	}
	return nil
}
