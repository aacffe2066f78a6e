package machine

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/phaseboot/phaseboot/bootclient"
	"github.com/phaseboot/phaseboot/internal/bootargs"
	"github.com/phaseboot/phaseboot/internal/netns"
)

func TestStepsRunInOrderUntilAFatalOneFails(t *testing.T) {
	var out bytes.Buffer
	var ran []string
	do := func(name string, r rule, err error) step {
		return step{name, r, func(context.Context) (string, error) {
			ran = append(ran, name)
			return "did " + name, err
		}}
	}
	gone := errors.New("gone")
	err := runSteps(t.Context(), newStory(&out), []step{
		do("one", fatal, nil), do("two", goOn, gone), do("own", own, nil), do("three", fatal, gone), do("four", fatal, nil),
	})
	if !errors.Is(err, gone) || err.Error() != "three: gone" {
		t.Errorf("error %v", err)
	}
	if got := strings.Join(ran, " "); got != "one two own three" {
		t.Errorf("ran %s", got)
	}
	for _, want := range []string{"s] one: did one\n", "s] own: did own\n", "two: failed: gone (the boot goes on without it)", "three: failed: gone"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("%q is not in\n%s", want, out.String())
		}
	}
}

func TestStepTimesCountFromTheStartOfTheKernel(t *testing.T) {
	var out bytes.Buffer
	newStory(&out).Say("now")
	var told float64
	if _, err := fmt.Sscanf(out.String(), "[%fs]", &told); err != nil {
		t.Fatal(err)
	}
	if up := uptime().Seconds(); told < up-5 || told > up+5 {
		t.Errorf("told %v, uptime %v", told, up)
	}
}

func TestAPanicIsContained(t *testing.T) {
	err := contain(func() error { panic("parser of X") })
	if err == nil || !strings.Contains(err.Error(), "parser of X") {
		t.Errorf("got %v", err)
	}
}

func TestTheReasonOfTheChildReachesTheConsole(t *testing.T) {
	file := filepath.Join(t.TempDir(), "failed")
	err := writeFailure(file, errors.New("release: block bafk…: corrupt\nand more"), []bootclient.Refusal{
		{Source: "peer X", What: "block", Why: "wrong hash"},
	})
	if err != nil {
		t.Fatal(err)
	}
	want := "release: block bafk…: corrupt; and more\nrefused: block from peer X: wrong hash"
	if got := readFailure(file); got != want {
		t.Errorf("got %q", got)
	}
}

func TestAReasonWithoutEndIsCut(t *testing.T) {
	file := filepath.Join(t.TempDir(), "failed")
	if err := os.WriteFile(file, bytes.Repeat([]byte{'x'}, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := len(readFailure(file)); got != maxFailure {
		t.Errorf("%d bytes", got)
	}
}

func TestTheEndOfTheChildIsWords(t *testing.T) {
	exit := func(code int) unix.WaitStatus { return unix.WaitStatus(code << 8) }
	for want, got := range map[string]error{
		"its own words":     childReason(exit(1), "its own words"),
		"too little memory": childReason(unix.WaitStatus(syscall.SIGKILL), ""),
		"ended by signal":   childReason(unix.WaitStatus(syscall.SIGSEGV), ""),
		"it crashed":        childReason(exit(2), ""),
		"status 7":          childReason(exit(7), ""),
	} {
		if !strings.Contains(got.Error(), want) {
			t.Errorf("%q is not in %q", want, got)
		}
	}
}

func TestChildrenAreReapedAndOneIsWaitedFor(t *testing.T) {
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	pid, err := spawn("/bin/sh", []string{"sh", "-c", "exit 7"}, null)
	if err != nil {
		t.Fatal(err)
	}
	ws, err := reap(pid)
	if err != nil || ws.ExitStatus() != 7 {
		t.Errorf("status %d, %v", ws.ExitStatus(), err)
	}
}

func TestTheCommandLineOnlyNarrowsTheCache(t *testing.T) {
	for name, tt := range map[string]struct {
		args bootargs.Arguments
		want string // "" for a refusal
	}{
		"the mode alone":                 {bootargs.Arguments{Mode: "local"}, "rw"},
		"no mode is the default":         {bootargs.Arguments{}, "rw"},
		"narrowed":                       {bootargs.Arguments{Mode: "local", Cache: "off"}, "off"},
		"never widened":                  {bootargs.Arguments{Mode: "private", Cache: "rw"}, "off"},
		"nowrite reads":                  {bootargs.Arguments{Mode: "local", NoWrite: true}, "ro"},
		"nowrite wins":                   {bootargs.Arguments{Mode: "local", NoWrite: true, Cache: "rw"}, "ro"},
		"unknown right":                  {bootargs.Arguments{Cache: "maybe"}, ""},
		"unknown mode names the others:": {bootargs.Arguments{Mode: "party"}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			m, err := bootMode(tt.args)
			if (err != nil) != (tt.want == "") || err == nil && m.Cache != tt.want {
				t.Errorf("cache %q, %v", m.Cache, err)
			}
		})
	}
}

func TestProgressIsToldNowAndThen(t *testing.T) {
	var out bytes.Buffer
	b := &boot{story: newStory(&out)}
	tell := b.progress()
	for i := range int64(1000) {
		tell(i, 1000)
	}
	if out.Len() != 0 {
		t.Errorf("a short fetch printed %q", out.String())
	}
}

func TestConsoleTextCannotDriveTheTerminal(t *testing.T) {
	if got := printable("a\x1b[2Jb\u202ec\x00"); got != "a?[2Jb?c?" {
		t.Errorf("got %q", got)
	}
}

func TestHandOverFilesMoveWithTheirModes(t *testing.T) {
	from, to := t.TempDir(), filepath.Join(t.TempDir(), "phase")
	if err := os.MkdirAll(filepath.Join(from, "job"), 0o755); err != nil {
		t.Fatal(err)
	}
	modes := map[string]os.FileMode{"release.json": 0o644, "machine.key": 0o600, "job/hello.wasm": 0o644, "rootfs.squashfs": 0o644}
	for name, mode := range modes {
		if err := os.WriteFile(filepath.Join(from, name), []byte(name), mode); err != nil {
			t.Fatal(err)
		}
	}
	for attempt := range 2 {
		if err := moveHandOver(from, to); err != nil {
			t.Fatalf("attempt %d: %v", attempt, err)
		}
	}
	delete(modes, "rootfs.squashfs")
	for name, mode := range modes {
		info, err := os.Stat(filepath.Join(to, name))
		if err != nil || info.Mode().Perm() != mode {
			t.Errorf("%s: %v, %v", name, info, err)
		}
	}
	if exists(filepath.Join(from, "machine.key")) || !exists(filepath.Join(from, "rootfs.squashfs")) {
		t.Error("the key stayed or the root file system went")
	}
}

func TestEmptyingTheInitramfsCrossesNoMount(t *testing.T) {
	if !netns.Alone(t) {
		return
	}
	dir := t.TempDir()
	other := filepath.Join(dir, "mounted")
	if err := os.MkdirAll(other, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", other, "tmpfs", 0, "size=1m"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(other, unix.MNT_DETACH) })
	for _, name := range []string{"a", "mounted/keep"} {
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	var st unix.Stat_t
	if err := unix.Lstat(dir, &st); err != nil {
		t.Fatal(err)
	}
	if err := removeTree(dir, uint64(st.Dev)); err != nil {
		t.Fatal(err)
	}
	if exists(filepath.Join(dir, "a")) || !exists(filepath.Join(other, "keep")) {
		t.Error("the wrong files are gone")
	}
}

func TestAnotherAttemptKeepsTheMountsOfTheFirst(t *testing.T) {
	if !netns.Alone(t) {
		return
	}
	dir := t.TempDir()
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
	for attempt := range 2 {
		if _, err := mountAll([]mount{{"tmpfs", dir, "tmpfs", 0, "size=1m"}}); err != nil {
			t.Fatal(err)
		}
		key := filepath.Join(dir, "machine.key")
		if attempt == 1 && !exists(key) {
			t.Error("a second file system hides the hand-over in the first")
		}
		if err := os.WriteFile(key, nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

func TestInitIsLookedForInsideTheNewRoot(t *testing.T) {
	dir := t.TempDir()
	if err := checkInit(dir, nextInit); err == nil || !strings.Contains(err.Error(), "build the rootfs with an init") {
		t.Errorf("an empty root: %v", err)
	}
	if err := os.MkdirAll(filepath.Join(dir, "usr/sbin"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.Symlink("usr/sbin", filepath.Join(dir, "sbin")),
		os.Symlink("/lib/systemd/systemd", filepath.Join(dir, "usr/sbin/init"))); err != nil {
		t.Fatal(err)
	}
	if err := checkInit(dir, nextInit); err != nil {
		t.Errorf("Debian's layout: %v", err)
	}
	if err := errors.Join(os.Remove(filepath.Join(dir, "sbin")), os.Symlink("/usr/sbin", filepath.Join(dir, "sbin"))); err != nil {
		t.Fatal(err)
	}
	if err := checkInit(dir, nextInit); err != nil {
		t.Errorf("an absolute link: %v", err)
	}
}

func TestMemoryInfoIsBytes(t *testing.T) {
	data := "MemTotal:        1004 kB\nMemAvailable:     500 kB\n"
	if got := parseMeminfo(data, "MemAvailable"); got != 500<<10 {
		t.Errorf("got %d", got)
	}
	if got := parseMeminfo(data, "SwapTotal"); got != 0 {
		t.Errorf("got %d", got)
	}
	if meminfo("MemTotal") <= 0 {
		t.Error("this machine has no memory")
	}
}

func TestUeventFields(t *testing.T) {
	ev := parseUevent([]byte("add@/devices/x\x00ACTION=add\x00SUBSYSTEM=block\x00MODALIAS=virtio:d00000002v00001AF4\x00"))
	if ev["ACTION"] != "add" || ev["SUBSYSTEM"] != "block" || ev["MODALIAS"] != "virtio:d00000002v00001AF4" {
		t.Errorf("%v", ev)
	}
}

func TestHotplugEndsWithItsContext(t *testing.T) {
	m, _ := debianModules(t)
	ctx, stop := context.WithTimeout(t.Context(), time.Second)
	defer stop()
	if err := m.hotplug(ctx, make(chan struct{}, 1)); err != nil {
		t.Fatal(err)
	}
}

func TestAReleaseThatWantsMoreMemoryIsRefused(t *testing.T) {
	const counted = 470 << 20 // what a kernel counts in a machine of 512 MiB
	for wish, ok := range map[int64]bool{0: true, 256: true, 512: true, 600: false, 1 << 50: false} {
		if err := enoughMemory(wish, counted); (err == nil) != ok {
			t.Errorf("%d MiB: %v", wish, err)
		}
	}
}
