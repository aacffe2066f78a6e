package key

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestCheckExposed(t *testing.T) {
	dir := t.TempDir()
	for _, row := range []struct {
		name    string
		mode    fs.FileMode
		exposed bool
	}{
		{"online.key", 0o600, false},
		{"online.key", 0o400, false},
		{"online.key", 0o640, true},
		{"online.key", 0o620, true},
		{"online.key", 0o604, true},
		{"passphrase", 0o644, true},
		{"online.key.pub", 0o644, false},
	} {
		path := filepath.Join(dir, row.name)
		if err := errors.Join(os.WriteFile(path, []byte("x"), 0o600), os.Chmod(path, row.mode)); err != nil {
			t.Fatal(err)
		}
		err := CheckExposed("", "ssh-agent:SHA256:abc", "hashivault://online", filepath.Join(dir, "missing"), path)
		if exposed := errors.Is(err, fs.ErrPermission); exposed != row.exposed || exposed && !strings.Contains(err.Error(), "chmod 600 "+path) {
			t.Errorf("%s with mode %04o: %v", row.name, row.mode, err)
		}
		t.Setenv("CREDENTIALS_DIRECTORY", dir)
		if err := CheckExposed(path); err != nil {
			t.Errorf("%s as a credential: %v", row.name, err)
		}
		os.Unsetenv("CREDENTIALS_DIRECTORY")
		os.Chmod(path, 0o600)
	}
}
