package key

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/phaseboot/phaseboot/internal/refusal"
)

// CheckExposed reports the private key and passphrase files that users other than the owner can
// read or write. It skips names that are not files (ssh-agent:, KMS URIs, ""), missing files,
// public keys (.pub), and systemd's credentials, which the service manager protects. The error
// wraps fs.ErrPermission.
func CheckExposed(files ...string) error {
	var all error
	for _, path := range files {
		if path == "" || !isFile(path) || strings.HasSuffix(path, ".pub") || isCredential(path) {
			continue
		}
		info, err := os.Stat(path)
		if err == nil && info.Mode().IsRegular() && info.Mode().Perm()&0o077 != 0 {
			all = errors.Join(all, refusal.New(fs.ErrPermission, "key or passphrase file %s: other users have access to it (mode %04o); run chmod 600 %s", path, info.Mode().Perm(), path))
		}
	}
	return all
}

// isCredential reports whether systemd made the file for this service. systemd grants access by
// an ACL, which looks like group permission.
func isCredential(path string) bool {
	dir := os.Getenv("CREDENTIALS_DIRECTORY")
	return dir != "" && filepath.Dir(path) == filepath.Clean(dir)
}
