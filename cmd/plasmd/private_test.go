package main

import (
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/ipfs/go-cid"
	"golang.org/x/sys/unix"

	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/internal/netns"
	"github.com/phaseboot/phaseboot/plasm"
	"github.com/phaseboot/phaseboot/plasm/api"
	"github.com/phaseboot/phaseboot/plasm/client"
)

// ownRoot starts plasmd in the root filesystem "root". Its programs are those of this machine, read only where that
// is possible, and each other folder may be written.
const ownRoot = `
mount --make-rprivate /
for dir in usr lib lib64 bin sbin etc; do
	if [ -L /$dir ]; then
		cp -P /$dir root/$dir
	elif [ -d /$dir ]; then
		mkdir root/$dir
		mount --rbind /$dir root/$dir
		mount -o remount,bind,ro root/$dir || :
	fi
done
mkdir -p root/proc root/dev root/old root/run root/tmp root/home root/root root/var/tmp root/var/lib root/var/cache root/opt
mount --rbind /proc root/proc
mount --rbind /dev root/dev
mount -t tmpfs run root/run
cp "$(readlink -f "$(command -v plasmd)")" root/opt/plasmd
cd root
pivot_root . old
cd /
umount -l /old
rmdir /old
export HOME=/home PATH=/opt:/usr/bin:/bin:/usr/sbin:/sbin
unset GOCOVERDIR TMPDIR
echo ready
read go
exec plasmd serve --log-level warn "$@"
`

// tree lists the files of a filesystem with what changes when they are written.
func tree(t *testing.T, root string) map[string]string {
	t.Helper()
	out := map[string]string{}
	var device uint64
	check(t, filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		var s unix.Stat_t
		if err := unix.Lstat(path, &s); err != nil {
			return err
		}
		if device == 0 {
			device = s.Dev
		}
		if s.Dev != device { // what is mounted there is read only, or in memory
			return filepath.SkipDir
		}
		out[strings.TrimPrefix(path, root)] = fmt.Sprintf("%o %d %d.%09d", s.Mode, s.Size, s.Mtim.Sec, s.Mtim.Nsec)
		return nil
	}))
	return out
}

// TestPrivateModeWritesNothing runs jobs of all kinds in private mode and in a mode without a cache, in a root
// filesystem that the test compares afterwards. Only the state in memory, in /run, may change.
func TestPrivateModeWritesNothing(t *testing.T) {
	if !netns.Inside(t) {
		return
	}
	for name, c := range map[string]struct {
		args  []string
		wrote bool
	}{
		"--private":      {[]string{"--private"}, false},
		"mode private":   {[]string{"--mode", "private"}, false},
		"not in private": {[]string{"--state", "/var/lib/plasm"}, true}, // the comparison must see this
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			root := filepath.Join(dir, "root")
			check(t, os.Mkdir(root, 0o755))
			check(t, unix.Mount("root", root, "tmpfs", 0, "size=512m,mode=755"))
			t.Cleanup(func() { _ = unix.Unmount(root, unix.MNT_DETACH) })
			s := &served{t: t}
			s.cmd = exec.Command("unshare", append([]string{"--mount", "sh", "-euc", ownRoot, "sh", "--mirror", "http://127.0.0.1:1", "--fetch-timeout", "500ms"}, c.args...)...)
			s.cmd.Dir, s.cmd.Stderr = dir, &s.log
			in, err := s.cmd.StdinPipe()
			check(t, err)
			out, err := s.cmd.StdoutPipe()
			check(t, err)
			check(t, s.cmd.Start())
			t.Cleanup(func() { _ = s.cmd.Process.Kill() })
			buf := make([]byte, 4096)
			if _, err := out.Read(buf); err != nil {
				_ = s.cmd.Wait()
				t.Fatalf("%v\n%s", err, &s.log)
			}
			before := tree(t, root)
			_, err = in.Write([]byte("go\n"))
			check(t, err)
			if _, err := out.Read(buf); err != nil {
				_ = s.cmd.Wait()
				t.Fatalf("%v\n%s", err, &s.log)
			}
			s.socket = fmt.Sprintf("/proc/%d/root%s", s.cmd.Process.Pid, api.DefaultSocket)
			s.connect()
			s.everyKind()
			check(t, s.cmd.Process.Signal(syscall.SIGTERM))
			if err := s.cmd.Wait(); err != nil {
				t.Errorf("%v\n%s", err, &s.log)
			}
			after := tree(t, root)
			if diff := cmp.Diff(before, after); (diff != "") != c.wrote {
				t.Errorf("files have changed: %v, want %v:\n%s", diff != "", c.wrote, diff)
			}
			if c.wrote && !slices.Contains(slices.Collect(maps.Keys(after)), "/var/lib/plasm/queue.db") {
				t.Errorf("the comparison does not see the state: %v", after)
			}
		})
	}
}

// everyKind runs a job with each engine and each grant, one that a limit ends, one that is cut off, and one whose module
// cannot be fetched.
func (s *served) everyKind() {
	s.t.Helper()
	for _, engine := range []string{plasm.EngineInterpreter, plasm.EngineCompiler} {
		for module, reason := range map[string]string{string(exits0): plasm.ReasonExit, string(endless): plasm.ReasonTimeout} {
			j, err := s.submitSpec([]byte(module), func(spec *plasm.Spec) {
				spec.Engine, spec.Limits.Timeout = engine, 300*time.Millisecond
				if reason == plasm.ReasonExit {
					spec.Limits.Timeout = time.Minute
				}
				spec.Grants = plasm.Grants{Stdin: true, Scratch: 1 << 20, Clock: true, Random: true}
			})
			check(s.t, err)
			if j := s.end(j.ID); j.Reason != reason {
				s.t.Errorf("%s: ended as %+v", engine, j)
			}
		}
	}
	m := client.Local(s.t.Context(), s.socket)
	check(s.t, m.Err)
	defer m.Client.Close()
	j, err := m.Client.Submit(s.t.Context(), client.Submission{Request: &api.Request{Name: "far", ModuleCID: cas.Sum(cid.Raw, []byte("far")).String(), Spec: plasm.DefaultSpec()}})
	check(s.t, err)
	if j := s.end(j.ID); j.Reason != api.ReasonUnreachable {
		s.t.Errorf("a module that cannot be fetched: %+v", j)
	}
	if j, err := s.submit([]byte("no module")); err == nil {
		if j := s.end(j.ID); j.Reason == plasm.ReasonExit {
			s.t.Errorf("no module: %+v", j)
		}
	}
}
