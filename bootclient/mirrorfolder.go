package bootclient

import (
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"

	"github.com/phaseboot/phaseboot/cas"
)

// errNoMirror says that the folder of a file:// mirror is not there. It is out of reach, not
// empty: the medium may be mounted later.
var errNoMirror = fmt.Errorf("%w: no such folder; check the path, or mount what holds it", cas.ErrUnreachable)

// checkMirrorFolder returns an error that wraps errNoMirror when a mirror is a file:// URL and
// names no folder. Other URLs pass.
func checkMirrorFolder(base string) error {
	u, err := url.Parse(base)
	if err != nil || u.Scheme != "file" {
		return nil
	}
	info, err := os.Stat(u.Path + "/")
	switch {
	case errors.Is(err, fs.ErrNotExist), err == nil && !info.IsDir():
		return errNoMirror
	case err != nil:
		return fmt.Errorf("%w: %w", errNoMirror, err)
	}
	return nil
}
