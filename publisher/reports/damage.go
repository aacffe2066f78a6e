package reports

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/phaseboot/phaseboot/internal/refusal"
)

// magic begins each database of SQLite.
var magic = []byte("SQLite format 3\x00")

// suffixes are those of the files of one database.
var suffixes = []string{"", "-wal", "-shm"}

// MoveAside renames a damaged database and the files beside it, so that Open makes a new one, and returns the new name. A
// file that does not begin as a database may be any file, named by mistake: it stays, unless any is true, and the error wraps
// fs.ErrInvalid.
func MoveAside(path string, now time.Time, any bool) (to string, err error) {
	if !any && !beginsAsDatabase(path) {
		return "", refusal.Invalid("boot reports: %s: not a database; move it away if it was one, or name another file with --reports", path)
	}
	to = path + ".damaged-" + now.UTC().Format("20060102T150405Z")
	if _, err := os.Lstat(to); err == nil {
		return "", fmt.Errorf("boot reports: %s: %w; move it away", to, fs.ErrExist)
	}
	for _, suffix := range suffixes {
		if err := os.Rename(path+suffix, to+suffix); err != nil && (suffix == "" || !errors.Is(err, fs.ErrNotExist)) {
			return "", fmt.Errorf("boot reports: %w", err)
		}
	}
	return to, nil
}

// beginsAsDatabase reports whether a file begins as a database does, or with zeros, which a crash may leave.
func beginsAsDatabase(path string) bool {
	f, err := os.Open(path)
	if err != nil {
		return false
	}
	defer f.Close()
	head := make([]byte, len(magic))
	if _, err := io.ReadFull(f, head); err != nil {
		return false
	}
	return bytes.Equal(head, magic) || bytes.Equal(head, make([]byte, len(magic)))
}

// quickCheck looks for damage of the database, as far as it comes in a short time.
func (s *Store) quickCheck(ctx context.Context) error {
	short, cancel := context.WithTimeout(ctx, quickCheckLimit)
	defer cancel()
	var said string
	err := s.db.QueryRowContext(short, "PRAGMA quick_check(1)").Scan(&said)
	switch {
	case short.Err() != nil:
		return ctx.Err()
	case err != nil:
		return err
	case said != "ok":
		return s.damaged()
	}
	return nil
}

// networkFileSystems are the types of file systems that several machines may write to, as statfs says.
var networkFileSystems = map[uint32]string{
	unix.NFS_SUPER_MAGIC: "NFS", unix.SMB_SUPER_MAGIC: "SMB", unix.CIFS_SUPER_MAGIC: "SMB", unix.SMB2_SUPER_MAGIC: "SMB", unix.V9FS_MAGIC: "9p",
	unix.CEPH_SUPER_MAGIC: "Ceph", unix.AFS_SUPER_MAGIC: "AFS", unix.CODA_SUPER_MAGIC: "Coda", unix.OCFS2_SUPER_MAGIC: "OCFS2", 0x0bd00bd0: "Lustre", 0x47504653: "GPFS",
}

func fileSystem(dir string) (uint32, error) {
	var on unix.Statfs_t
	err := unix.Statfs(dir, &on)
	return uint32(on.Type), err
}

// checkFileSystem refuses a network file system: SQLite keeps a part of the database in memory that its processes share.
func checkFileSystem(path string, fileSystem func(string) (uint32, error)) error {
	kind, err := fileSystem(filepath.Dir(path))
	if name := networkFileSystems[kind]; err == nil && name != "" {
		return refusal.Invalid("boot reports: %s: on a network file system (%s), where the database would be damaged; name a file on a local disk with --reports", path, name)
	}
	return nil // Open says why there is no such folder
}
