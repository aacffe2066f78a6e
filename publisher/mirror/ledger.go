package mirror

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/internal/atomicfile"
	openfile "github.com/phaseboot/phaseboot/internal/file" // file is a type here
)

// A ledger lists the files that exports wrote into a mirror, each with the time since which
// no release needs it; the zero time while a release does. Its file has one line for each
// path: the path and, after a space, the time.
type ledger map[string]time.Time

// ledgerTitle is the first line of the file.
const ledgerTitle = "files written by phase-publish export, and since when nothing needs them"

// exportedPath matches the paths that an export writes, and may remove.
var exportedPath = regexp.MustCompile(`^(ipfs|ipns)/[a-z0-9]{1,128}$|^(tuf/)?metadata/[a-z0-9_-][a-z0-9_.-]{0,250}\.json$` +
	`|^tuf/targets/([A-Za-z0-9_-][A-Za-z0-9._+,-]*/)+[0-9a-f]{64}\.[A-Za-z0-9._+,-]{1,190}$`)

// readLedger reads a ledger; a missing file is an empty ledger.
func readLedger(path string) (ledger, error) {
	f, err := openfile.Open(path, openfile.NoFollow)
	if errors.Is(err, fs.ErrNotExist) {
		return ledger{}, nil
	}
	if err != nil {
		return nil, fmt.Errorf("mirror: %w", err)
	}
	defer f.Close()
	l, err := parseLedger(f)
	if err != nil {
		return nil, fmt.Errorf("%s: %w; remove it to begin a new one, which does not list the files that are there", path, err)
	}
	return l, nil
}

// parseLedger returns cas.ErrCorrupt for a line that no ledger has.
func parseLedger(r io.Reader) (ledger, error) {
	lines := bufio.NewScanner(r)
	if !lines.Scan() || lines.Text() != ledgerTitle {
		return nil, errors.Join(lines.Err(), fmt.Errorf("not a ledger: %w", cas.ErrCorrupt))
	}
	l := ledger{}
	for lines.Scan() {
		path, at, unneeded := strings.Cut(lines.Text(), " ")
		var since time.Time
		var err error
		if unneeded {
			since, err = time.Parse(time.RFC3339, at)
		}
		if err != nil || unneeded && since.IsZero() || !exportedPath.MatchString(path) {
			return nil, fmt.Errorf("line %.80q: %w", lines.Text(), cas.ErrCorrupt)
		}
		l[path] = since
	}
	return l, lines.Err()
}

// write replaces the file, durably.
func (l ledger) write(path string) error {
	return atomicfile.WriteFrom(path, 0o644, l.encode)
}

// encode writes the lines of the file.
func (l ledger) encode(w io.Writer) error {
	b := bufio.NewWriter(w)
	fmt.Fprintln(b, ledgerTitle)
	for _, name := range slices.Sorted(maps.Keys(l)) {
		b.WriteString(name)
		if since := l[name]; !since.IsZero() {
			b.WriteString(" " + since.UTC().Format(time.RFC3339))
		}
		b.WriteByte('\n')
	}
	return b.Flush()
}
