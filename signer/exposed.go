package signer

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// exposed is the text of an error that is an fs.ErrPermission.
type exposed string

func (e exposed) Error() string        { return string(e) }
func (e exposed) Is(target error) bool { return target == fs.ErrPermission }

// CheckExposed reports the private key and passphrase files that users other than the owner
// may read or write. Names that are no files (ssh-agent:, KMS URIs, ""), files that are not
// there, public keys (.pub) and systemd's credentials, which the service manager protects, are
// passed over. The error wraps fs.ErrPermission.
func CheckExposed(files ...string) error {
	var all error
	for _, path := range files {
		if path == "" || strings.HasPrefix(path, agentScheme) || scheme.MatchString(path) || strings.HasSuffix(path, ".pub") || isCredential(path) {
			continue
		}
		info, err := os.Stat(path)
		if err == nil && info.Mode().IsRegular() && info.Mode().Perm()&0o077 != 0 {
			all = errors.Join(all, exposed(fmt.Sprintf("key or passphrase file %s: other users have access to it (mode %04o); run chmod 600 %s", path, info.Mode().Perm(), path)))
		}
	}
	return all
}

// isCredential reports whether systemd made the file for this service. It gives the service
// access by an ACL, which shows as group bits.
func isCredential(path string) bool {
	dir := os.Getenv("CREDENTIALS_DIRECTORY")
	return dir != "" && filepath.Dir(path) == filepath.Clean(dir)
}
