package machine

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/phaseboot/phaseboot/bootclient/report"
	"github.com/phaseboot/phaseboot/internal/atomicfile"
	"github.com/phaseboot/phaseboot/internal/file"
)

const (
	savedDir   = "reports" // of the cache partition
	maxReports = 32        // kept there; the oldest are removed
)

// errNoSave is the error for a boot that may not write to a disk.
var errNoSave = errors.New("the report is not saved: the boot mode or the command line forbids writing to the stick")

// Save is `phase-boot save`, which the menu runs: it writes the report of the last attempt, as JSON and
// as text, to the cache partition of the stick. It needs a mode that may write there.
func Save(ctx context.Context, w io.Writer, choice Choice) error {
	b := &boot{report: newReport(w), choice: choice, newDisk: make(chan struct{}, 1)}
	if _, err := b.commandLine(ctx); err != nil {
		return err
	}
	if b.config.Mode.Cache != "rw" {
		return errNoSave
	}
	// The watcher may have mounted it read-only; it has read what it needs.
	unlock, err := lockCache(ctx, cacheLock)
	if err != nil {
		return fmt.Errorf("the report is not saved: %w", err)
	}
	defer unlock()
	unmountCache()
	defer unmountCache()
	summary, err := b.cache(ctx)
	if err != nil {
		return err
	}
	if b.config.Mode.Cache != "rw" || b.config.Cache == "" {
		return fmt.Errorf("%w: %s", errNoSave, summary)
	}
	var text bytes.Buffer
	if err := errors.Join(Status(&text), Network(&text)); err != nil {
		return err
	}
	reportJSON, err := file.Read(reportFile, file.NoFollow, maxHanded)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	name, err := saveReports(b.config.Cache, time.Now(), reportJSON, text.Bytes())
	if err != nil {
		return fmt.Errorf("the report is not saved: %w", file.FullDisk(err))
	}
	unix.Sync()
	_, err = fmt.Fprintf(w, "report saved: %s on %s\n", name, report.Printable(summary))
	return err
}

// saveReports writes the files of one report to the folder of reports of a cache, and removes the
// oldest. It returns the names for a person.
func saveReports(cache string, now time.Time, reportJSON, text []byte) (string, error) {
	dir := filepath.Join(cache, savedDir)
	if err := file.CheckFolder(dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
		if err := os.RemoveAll(dir); err != nil { // a link or a file that an attacker made
			return "", err
		}
	}
	if err := errors.Join(removeOldest(dir), os.MkdirAll(dir, 0o755)); err != nil {
		return "", err
	}
	base := "report-" + now.UTC().Format("20060102-150405")
	if len(reportJSON) > 0 {
		if err := atomicfile.Write(filepath.Join(dir, base+".json"), 0o644, reportJSON); err != nil {
			return "", err
		}
	}
	return savedDir + "/" + base + ".txt", atomicfile.Write(filepath.Join(dir, base+".txt"), 0o644, text)
}

// removeOldest makes room for one more report.
func removeOldest(dir string) error {
	entries, err := file.ReadDir(dir, 10*maxReports)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case errors.Is(err, file.ErrTooLarge):
		return os.RemoveAll(dir) // nobody but an attacker made so many
	case err != nil:
		return err
	}
	var names []string
	for _, e := range entries {
		if e.Name() != filepath.Base(pendingDir) { // it has bounds of its own
			names = append(names, e.Name())
		}
	}
	slices.Sort(names)
	for len(names) > 2*(maxReports-1) {
		if err := os.RemoveAll(filepath.Join(dir, names[0])); err != nil {
			return err
		}
		names = names[1:]
	}
	return nil
}
