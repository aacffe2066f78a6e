package imagebuild

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/phaseboot/phaseboot/cas"
)

// toolPackages maps each program that this package runs to its Debian package.
var toolPackages = map[string]string{
	"apt-cache": "apt", "apt-get": "apt", "apt-config": "apt", "apt-helper": "apt",
	"dpkg-deb": "dpkg", "mmdebstrap": "mmdebstrap", "mksquashfs": "squashfs-tools", "unsquashfs": "squashfs-tools",
	"mkfs.vfat": "dosfstools", "fsck.fat": "dosfstools",
	"mcopy": "mtools", "mmd": "mtools",
	"prlimit": "util-linux",
	"zstd":    "zstd",
	"mke2fs":  "e2fsprogs", "e2fsck": "e2fsprogs", "sgdisk": "gdisk",
	"grub-mkimage": "grub-common",
	"depmod":       "kmod",
	"make":         "make", "gcc": "gcc", "flex": "flex", "bison": "bison", "bc": "bc", "perl": "perl", "xz": "xz-utils", "tar": "tar", "env": "coreutils",
	"x86_64-linux-gnu-gcc": "gcc-x86-64-linux-gnu", "x86_64-linux-gnu-ld": "binutils-x86-64-linux-gnu",
	"aarch64-linux-gnu-gcc": "gcc-aarch64-linux-gnu", "aarch64-linux-gnu-ld": "binutils-aarch64-linux-gnu",
}

// findTool finds a tool on PATH, in the sbin folders, which are not always on an ordinary user's
// PATH, or beside apt.
func findTool(name string) (string, error) {
	if path, err := exec.LookPath(name); err == nil {
		return path, nil
	}
	for _, dir := range []string{"/usr/sbin", "/sbin", "/usr/local/sbin", "/usr/lib/apt"} {
		if path, err := exec.LookPath(filepath.Join(dir, name)); err == nil {
			return path, nil
		}
	}
	return "", fmt.Errorf("%s: not found; run: apt-get install %s", name, toolPackages[name])
}

// requireTools reports the first tool that is missing. It is called before the work begins.
func requireTools(names ...string) error {
	for _, name := range names {
		if _, err := findTool(name); err != nil {
			return err
		}
	}
	return nil
}

// A tool is one run of another program in a fixed locale and time zone.
type tool struct {
	name   string
	args   []string
	dir    string
	env    []string
	stdin  io.Reader
	stdout io.Writer // nil: returned by output, discarded by run
	root   bool      // runs as root of a new user namespace
	memory uint64    // limit of its address space in bytes, 0 for none
}

func command(name string, args ...string) *tool { return &tool{name: name, args: args} }

func (t *tool) in(dir string) *tool      { t.dir = dir; return t }
func (t *tool) with(env ...string) *tool { t.env = append(t.env, env...); return t }
func (t *tool) reads(r io.Reader) *tool  { t.stdin = r; return t }
func (t *tool) asRoot() *tool            { t.root = true; return t }
func (t *tool) limited() *tool           { t.memory = 2 << 30; return t } // for tools that read untrusted input

// output runs the tool and returns its stdout.
func (t *tool) output(ctx context.Context) ([]byte, error) {
	var out bytes.Buffer
	t.stdout = &out
	err := t.run(ctx)
	return out.Bytes(), err
}

// run runs the tool and waits for it. The error has the last lines of the tool's stderr.
// When ctx ends, the whole process group is signalled: mmdebstrap ignores signals, waits
// for its children, and then removes their files.
func (t *tool) run(ctx context.Context) error {
	path, err := findTool(t.name)
	if err != nil {
		return err
	}
	args := t.args
	if t.memory > 0 {
		args = append([]string{fmt.Sprintf("--as=%d", t.memory), path}, args...)
		if path, err = findTool("prlimit"); err != nil {
			return err
		}
	}
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM) }
	cmd.WaitDelay = 20 * time.Second
	cmd.Dir, cmd.Stdin, cmd.Stdout = t.dir, t.stdin, t.stdout
	cmd.Env = append(os.Environ(), "LC_ALL=C.UTF-8", "TZ=UTC", "PATH="+os.Getenv("PATH")+":/usr/sbin:/sbin")
	cmd.Env = append(cmd.Env, t.env...)
	if t.root && os.Getuid() != 0 {
		userNamespace(cmd.SysProcAttr)
	}
	var stderr outputTail
	cmd.Stderr = &stderr
	if err := cmd.Run(); err != nil {
		if ctx.Err() != nil {
			if cmd.Process != nil {
				_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) // processes that run after WaitDelay
			}
			return ctx.Err()
		}
		return &toolError{t.name, stderr.lastLines(), lacksNetwork(stderr.buf), err}
	}
	return nil
}

type toolError struct {
	name, output string // output: its last lines of stderr
	network      bool   // the tool could not reach a server
	err          error
}

// networkWords are texts that apt prints, also through mmdebstrap, when it reaches no mirror.
var networkWords = []string{"Could not resolve", "Temporary failure", "Could not connect", "Unable to connect", "Cannot initiate the connection", "Network is unreachable", "Connection failed", "Connection timed out", "apt-get update --error-on=any", "Some index files failed to download"}

func lacksNetwork(stderr []byte) bool {
	return slices.ContainsFunc(networkWords, func(w string) bool { return bytes.Contains(stderr, []byte(w)) })
}

// Is reports cas.ErrUnreachable for a tool that could not reach a server.
func (e *toolError) Is(target error) bool { return e.network && target == cas.ErrUnreachable }

func (e *toolError) Error() string {
	if e.output == "" {
		return fmt.Sprintf("%s: %v", e.name, e.err)
	}
	if strings.Contains(e.output, "No space left") || strings.Contains(e.output, "Disk full") {
		return fmt.Sprintf("%s: %s; free some space and run it again", e.name, e.output)
	}
	return fmt.Sprintf("%s: %s", e.name, e.output)
}

func (e *toolError) Unwrap() error { return e.err }

// outputTail keeps the last 4 KiB of a tool's output.
type outputTail struct{ buf []byte }

func (t *outputTail) Write(p []byte) (int, error) {
	t.buf = append(t.buf, p...)
	if n := len(t.buf) - 4096; n > 0 {
		t.buf = append(t.buf[:0], t.buf[n:]...)
	}
	return len(p), nil
}

// lastLines returns the last two lines of the output as one line. make repeats for each folder that
// something failed; what failed stands above.
func (t *outputTail) lastLines() string {
	lines := strings.Split(strings.TrimSpace(string(t.buf)), "\n")
	if said := slices.DeleteFunc(slices.Clone(lines), func(l string) bool { return strings.HasPrefix(l, "make: ***") || strings.HasPrefix(l, "make[") }); len(said) > 0 {
		lines = said
	}
	return strings.TrimSpace(strings.Join(lines[max(0, len(lines)-2):], "; "))
}

// checkOut refuses an output path that cannot become a file. It is called before the work
// begins.
func checkOut(path string) error {
	info, err := os.Stat(path)
	switch {
	case err == nil && info.IsDir():
		return optionsf("out %s: is a directory; name a file", path)
	case err == nil && !info.Mode().IsRegular():
		return optionsf("out %s: not a regular file; build a file, then write it with phase-image write", path)
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("out: %w", err)
	}
	if dir := filepath.Dir(path); !isDir(dir) {
		return fmt.Errorf("out: folder %s: %w; make it first", dir, fs.ErrNotExist)
	}
	return nil
}
