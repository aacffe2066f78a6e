package cli

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"github.com/phaseboot/phaseboot/cas"
)

// OpenInput opens a file that the person named, and refuses a directory or an
// empty file with words that say what was expected there.
func OpenInput(path, what string) (*os.File, error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%s %s: %w; check the path", what, path, fs.ErrNotExist)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", what, err)
	}
	info, err := f.Stat()
	if err == nil && info.IsDir() {
		err = Usagef("%s %s: is a directory; name a file", what, path)
	} else if err == nil && info.Mode().IsRegular() && info.Size() == 0 {
		err = fmt.Errorf("%s %s: the file is empty (%w); make it again", what, path, cas.ErrCorrupt)
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// ReadInput reads a whole file that the person named, at most max bytes of it.
func ReadInput(path, what string, max int64) ([]byte, error) {
	f, err := OpenInput(path, what)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, max+1))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", what, err)
	}
	if int64(len(data)) > max {
		return nil, Usagef("%s %s: more than %d bytes; is this the right file?", what, path, max)
	}
	return data, nil
}
