package bootclient_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/phaseboot/phaseboot/bootclient"
	"github.com/phaseboot/phaseboot/bootclient/cache"
	"github.com/phaseboot/phaseboot/internal/cli"
	"github.com/phaseboot/phaseboot/manifest"
)

// A file that no earlier fetch wrote is refused by name if it is in the way, and stays.
func TestAFetchReplacesNothingThatItDidNotWrite(t *testing.T) {
	t.Parallel()
	r := newRepo(t, "us", manifest.Discovery{})
	mirror := serve(t, r, nil).URL
	put := func(data string) func(path string) error {
		return func(path string) error { return os.WriteFile(path, []byte(data), 0o644) }
	}
	for kind, row := range map[string]struct {
		make func(path string) error
		said string
	}{
		"file":          {put("mine"), "a file that no earlier fetch wrote"},
		"empty file":    {put(""), "a file that no earlier fetch wrote"},
		"signed file":   {put(`{"signed": {"_type": "targets"}, "signatures": []}`), "a file that no earlier fetch wrote"},
		"symbolic link": {func(path string) error { return os.Symlink("/etc/hostname", path) }, "a symbolic link"},
		"dangling link": {func(path string) error { return os.Symlink("nowhere", path) }, "a symbolic link"},
		"pipe":          {func(path string) error { return unix.Mkfifo(path, 0o600) }, "not a regular file"},
		"folder":        {func(path string) error { return os.Mkdir(path, 0o755) }, "a folder"},
	} {
		for _, name := range []string{"kernel", "rootfs", "job/hello.wasm", "cmdline", "release.json", "report.json"} {
			t.Run(kind+"/"+name, func(t *testing.T) {
				t.Parallel()
				m := newMachine(t, r, "private")
				m.cfg.Mirrors = []string{mirror}
				path := filepath.Join(m.out, name)
				ok(t, os.MkdirAll(filepath.Dir(path), 0o755))
				ok(t, row.make(path))
				before, err := os.Lstat(path)
				ok(t, err)
				sink, err := bootclient.NewDirSink(m.out)
				if err == nil {
					sink.Abort()
					err = m.fetch(t.Context())
				}
				if cli.Code(err) != cli.ExitUsage || !strings.Contains(err.Error(), name+" is "+row.said) {
					t.Errorf("exit code %d: %v", cli.Code(err), err)
				}
				after, err := os.Lstat(path)
				if err != nil || !os.SameFile(before, after) || before.Size() != after.Size() {
					t.Errorf("it is %v now, %v", after, err)
				}
				entries, err := os.ReadDir(m.out)
				ok(t, err)
				if len(entries) != 1 {
					t.Errorf("beside it are %v", entries)
				}
			})
		}
	}
}

// An unfinished commit has no release.json. The next fetch may replace its files.
func TestAFetchReplacesTheFilesOfAnUnfinishedCommit(t *testing.T) {
	t.Parallel()
	r := newRepo(t, "us", manifest.Discovery{})
	m := newMachine(t, r, "private")
	m.cfg.Mirrors = []string{serve(t, r, nil).URL}
	m.boots(r)
	ok(t, os.Remove(filepath.Join(m.out, "release.json")))
	if _, err := bootclient.NewDirSink(m.out); cli.Code(err) != cli.ExitUsage {
		t.Fatalf("without the list: %v", err)
	}
	ok(t, os.WriteFile(filepath.Join(m.out, ".phase-boot.files"), []byte(`["cmdline","job/hello.wasm","initramfs","kernel","release.json","report.json","rootfs"]`), 0o644))
	m.boots(r)
	if left, err := filepath.Glob(filepath.Join(m.out, ".phase-boot.*")); err != nil || len(left) != 0 {
		t.Errorf("the folder holds %v, %v", left, err)
	}
}

// The list of an unfinished commit names files that the next fetch may replace. Nobody but its owner
// may write to it, whatever the umask.
func TestOnlyItsOwnerMayWriteToTheListOfACommit(t *testing.T) {
	defer unix.Umask(unix.Umask(0))
	r := newRepo(t, "us", manifest.Discovery{})
	m := newMachine(t, r, "private")
	m.cfg.Mirrors = []string{serve(t, r, nil).URL}
	m.cfg.Progress = func(done, total int64) {
		if done == total { // the commit cannot create the folder of the job
			ok(t, os.WriteFile(filepath.Join(m.out, "job"), nil, 0o644))
		}
	}
	if err := m.fetch(t.Context()); err == nil {
		t.Fatal("the commit was not interrupted")
	}
	info, err := os.Stat(filepath.Join(m.out, ".phase-boot.files"))
	ok(t, err)
	if mode := info.Mode(); mode != 0o644 {
		t.Errorf("its mode is %s", mode)
	}
}

func TestACacheIsNotCreatedAmongOtherFiles(t *testing.T) {
	for name, row := range map[string]struct {
		holds []string
		code  int
	}{
		"empty":                {nil, 0},
		"new filesystem":       {[]string{"lost+found/"}, 0},
		"cache":                {[]string{"blocks/", "trust/", "heads/"}, 0},
		"cache of a machine":   {[]string{"blocks/", "trust/", "report.json", "machine.key"}, 0},
		"cache without blocks": {[]string{"trust/"}, 0},
		"file":                 {[]string{"notes.txt"}, cli.ExitUsage},
		"hidden file":          {[]string{".profile"}, cli.ExitUsage},
		"folder":               {[]string{"pictures/"}, cli.ExitUsage},
		"output folder":        {[]string{"kernel", "release.json"}, cli.ExitUsage},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			for _, entry := range row.holds {
				path := filepath.Join(dir, entry)
				if strings.HasSuffix(entry, "/") {
					ok(t, os.Mkdir(path, 0o755))
				} else {
					ok(t, os.WriteFile(path, nil, 0o644))
				}
			}
			if err := cache.Check(dir); cli.Code(err) != row.code {
				t.Errorf("exit code %d, want %d: %v", cli.Code(err), row.code, err)
			}
		})
	}
	if err := cache.Check(filepath.Join(t.TempDir(), "new")); err != nil {
		t.Error(err)
	}
}
