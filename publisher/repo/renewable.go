package repo

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/phaseboot/phaseboot/manifest"
)

// Renewable lists what keeps a daemon from renewing what it serves: the newest root does
// not list its online key or its IPNS name, or the folder is not writable.
func (r *Repo) Renewable(key OnlineKey, record *Record) (problems []error) {
	if r.CheckOnlineKey(key.Public) != nil {
		problems = append(problems, fmt.Errorf("root version %d replaced the online key (%w); start phase-publish serve again with the new --online-key", r.Root.Version(), manifest.ErrSignature))
	}
	if !slices.Contains(r.Root.Discovery().IPNS, record.Name) {
		problems = append(problems, fmt.Errorf("root version %d does not list the IPNS name %s (%w): machines that know it look elsewhere; start phase-publish serve again with the new --ipns-key", r.Root.Version(), record.Name, manifest.ErrSignature))
	}
	if err := r.writable(); err != nil {
		problems = append(problems, err)
	}
	return problems
}

// writable reports why signatures cannot be renewed in the repository.
func (r *Repo) writable() error {
	f, err := os.OpenFile(filepath.Join(r.Dir, lockName), os.O_RDWR|os.O_CREATE, 0o644)
	if err == nil {
		err = f.Close()
	}
	if err == nil {
		err = unix.Faccessat(unix.AT_FDCWD, r.Dir, unix.W_OK|unix.X_OK, unix.AT_EACCESS)
	}
	if err == nil {
		return nil
	}
	var p *fs.PathError
	if errors.As(err, &p) {
		err = p.Err
	}
	return fmt.Errorf("repository %s: not writable for this user (%w): the timestamp cannot be signed again and will expire; make the folder and its files writable", r.Dir, err)
}
