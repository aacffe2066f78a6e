package machine

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/phaseboot/phaseboot/bootclient/network"
	"github.com/phaseboot/phaseboot/bootclient/report"
	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/internal/bootargs"
	"github.com/phaseboot/phaseboot/internal/bootfile"
	"github.com/phaseboot/phaseboot/internal/netns"
	"github.com/phaseboot/phaseboot/manifest"
)

func TestStepsRunInOrderUntilARequiredOneFails(t *testing.T) {
	var out bytes.Buffer
	var ran []string
	do := func(name string, onFailure failurePolicy, err error) step {
		return step{name, onFailure, func(context.Context) (string, error) {
			ran = append(ran, name)
			return "did " + name, err
		}}
	}
	gone := errors.New("gone")
	err := runSteps(t.Context(), newReport(&out), []step{
		do("one", required, nil), do("two", optional, gone), do("self", selfReporting, nil), do("three", required, gone), do("four", required, nil),
	})
	if !errors.Is(err, gone) || err.Error() != "three: gone" {
		t.Errorf("error %v", err)
	}
	if got := strings.Join(ran, " "); got != "one two self three" {
		t.Errorf("ran %s", got)
	}
	for _, want := range []string{"s] one: did one\n", "s] self: did self\n", "two: failed: gone (the boot continues without it)", "three: failed: gone"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("%q is not in\n%s", want, out.String())
		}
	}
}

func TestStepTimesCountFromTheStartOfTheKernel(t *testing.T) {
	var out bytes.Buffer
	newReport(&out).Say("now")
	var at float64
	if _, err := fmt.Sscanf(out.String(), "[%fs]", &at); err != nil {
		t.Fatal(err)
	}
	if up := uptime().Seconds(); at < up-5 || at > up+5 {
		t.Errorf("reported %v, uptime %v", at, up)
	}
}

func TestAPanicBecomesAnError(t *testing.T) {
	var out bytes.Buffer
	err := recoverPanic(&out, func() error { panic("parser of X") })
	if err == nil || !strings.Contains(err.Error(), "parser of X") {
		t.Errorf("got %v", err)
	}
}

func TestTheErrorOfTheBootProcessReachesPID1(t *testing.T) {
	file := filepath.Join(t.TempDir(), "failed")
	err := writeFailure(file, errors.New("release: block bafk…: corrupt\nand more"), []string{"source: mirror"}, []report.Refusal{
		{Source: "peer X", What: "block", Why: "wrong hash"},
	}, "another publisher")
	if err != nil {
		t.Fatal(err)
	}
	want := "release: block bafk…: corrupt; and more\nsource: mirror\nrefused: block from peer X: wrong hash\nto try: another publisher"
	if got := readFailure(file); got != want {
		t.Errorf("got %q", got)
	}
}

func TestALongErrorIsCut(t *testing.T) {
	file := filepath.Join(t.TempDir(), "failed")
	if err := os.WriteFile(file, bytes.Repeat([]byte{'x'}, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := len(readFailure(file)); got != maxFailure {
		t.Errorf("%d bytes", got)
	}
}

func TestTheExitOfTheBootProcessIsExplained(t *testing.T) {
	exit := func(code int) unix.WaitStatus { return unix.WaitStatus(code << 8) }
	for want, got := range map[string]error{
		"its own error":     childError(exit(1), "its own error"),
		"too little memory": childError(unix.WaitStatus(syscall.SIGKILL), ""),
		"ended by signal":   childError(unix.WaitStatus(syscall.SIGSEGV), ""),
		"it crashed":        childError(exit(2), ""),
		"status 7":          childError(exit(7), ""),
	} {
		if !strings.Contains(got.Error(), want) {
			t.Errorf("%q is not in %q", want, got)
		}
	}
}

func TestTheCommandLineReplacesThePolicyForStaleMetadata(t *testing.T) {
	for line, want := range map[string]string{
		"phase.mode=local":                                 "refuse",
		"phase.mode=local phase.stale=last-good":           "last-good",
		"phase.mode=edge":                                  "last-good",
		"phase.mode=edge phase.stale=refuse":               "refuse",
		"phase.mode=edge phase.stale=never":                "last-good", // a mistake; it is reported
		"phase.mode=private phase.stale=last-good":         "last-good", // without a cache it has no effect
		"phase.stale=last-good phase.mode=local phase.ip=": "last-good",
	} {
		if m, err := bootMode(bootargs.Parse(line)); err != nil || m.Stale != want {
			t.Errorf("%s: %q, %v", line, m.Stale, err)
		}
	}
}

func TestTheCommandLineOnlyReducesTheRightsToTheCache(t *testing.T) {
	for name, tt := range map[string]struct {
		args bootargs.Arguments
		want string // "" for a refusal
	}{
		"the mode alone":                 {bootargs.Arguments{Mode: "local"}, "rw"},
		"no mode is the default":         {bootargs.Arguments{}, "rw"},
		"reduced":                        {bootargs.Arguments{Mode: "local", Cache: "off"}, "off"},
		"never extended":                 {bootargs.Arguments{Mode: "private", Cache: "rw"}, "off"},
		"nowrite is read-only":           {bootargs.Arguments{Mode: "local", NoWrite: true}, "ro"},
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

func TestAShortFetchReportsNoProgress(t *testing.T) {
	var out bytes.Buffer
	b := &boot{report: newReport(&out)}
	progress := b.progress()
	for i := range int64(1000) {
		progress(i, 1000)
	}
	if out.Len() != 0 {
		t.Errorf("printed %q", out.String())
	}
}

func TestHandOverFilesKeepTheirModes(t *testing.T) {
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
		t.Error("the key was not moved, or the root filesystem was")
	}
}

func TestMountPointsSurviveTheEmptyingOfTheInitramfs(t *testing.T) {
	if !netns.Inside(t) {
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
		t.Error("the wrong files were deleted")
	}
}

func TestAnotherAttemptKeepsTheMountsOfTheFirst(t *testing.T) {
	if !netns.Inside(t) {
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
			t.Error("a second file system hides the files in the first")
		}
		if err := os.WriteFile(key, nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

func TestInitIsFoundThroughLinksOfTheNewRoot(t *testing.T) {
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

func TestMeminfoIsInBytes(t *testing.T) {
	data := "MemTotal:        1004 kB\nMemAvailable:     500 kB\n"
	if got := parseMeminfo(data, "MemAvailable"); got != 500<<10 {
		t.Errorf("got %d", got)
	}
	if got := parseMeminfo(data, "SwapTotal"); got != 0 {
		t.Errorf("got %d", got)
	}
	if meminfo("MemTotal") <= 0 {
		t.Error("no MemTotal on this machine")
	}
}

func TestUeventsAreParsed(t *testing.T) {
	ev := parseUevent([]byte("add@/devices/x\x00ACTION=add\x00SUBSYSTEM=block\x00MODALIAS=virtio:d00000002v00001AF4\x00"))
	if ev["ACTION"] != "add" || ev["SUBSYSTEM"] != "block" || ev["MODALIAS"] != "virtio:d00000002v00001AF4" {
		t.Errorf("%v", ev)
	}
}

func TestHotplugListensForUevents(t *testing.T) {
	m, _ := debianModules(t)
	if err := m.hotplug(t.Context(), make(chan struct{}, 1)); err != nil {
		t.Fatal(err)
	}
}

func TestAReleaseWithALargerMinRAMIsRefused(t *testing.T) {
	const total = 470 << 20 // MemTotal of a machine with 512 MiB
	for minRAM, ok := range map[int64]bool{0: true, 256: true, 512: true, 600: false, 1 << 50: false} {
		if err := checkMinRAM(minRAM, total); (err == nil) != ok {
			t.Errorf("%d MiB: %v", minRAM, err)
		}
	}
}

const mib = 1 << 20

// A machine with too little memory is refused with an advice, before the kernel's OOM killer runs.
func TestTooLittleMemoryIsRefusedWithAnAdvice(t *testing.T) {
	release := func(kernel, rootfs, minRAM int64) manifest.Release {
		return manifest.Release{MinRAM: minRAM, Artifacts: []manifest.Artifact{
			{Role: "kernel", Length: kernel * mib}, {Role: "rootfs", Length: rootfs * mib}, {Role: "dtb/board", Length: 1 << 40},
		}}
	}
	for name, tt := range map[string]struct {
		total, free int64 // MiB
		release     manifest.Release
		want        string
	}{
		"192 MiB, before anything is fetched": {148, 60, release(14, 43, 0), "36 MiB are missing: 60 MiB are free of 148 MiB, and a boot needs at least 96 MiB; give the machine 1024 MiB"},
		"192 MiB, a release of 57 MiB":        {148, 97, release(14, 43, 0), "122 MiB are missing: the release has 57 MiB and needs 219 MiB of free memory"},
		"320 MiB, a release of 57 MiB":        {274, 217, release(14, 43, 0), "217 MiB are free; give the machine 338 MiB"},
		"as much as it needs":                 {274, 219, release(14, 43, 0), ""},
		"a larger min_ram":                    {470, 400, release(14, 43, 600), "requires a machine with 600 MiB, this one has about 470 MiB"},
		"a huge release":                      {2000, 1900, release(14, 1<<20, 0), "needs 3.0 TiB of free memory"},
	} {
		t.Run(name, func(t *testing.T) {
			p := NewPayload(nil, tt.free*mib)
			p.meminfo = func(string) int64 { return tt.total * mib }
			err := cmp.Or(checkBootMemory(tt.total*mib, tt.free*mib), p.Plan(tt.release))
			if (err == nil) != (tt.want == "") || err != nil && (!strings.Contains(err.Error(), tt.want) || !errors.Is(err, errMemory)) {
				t.Errorf("got %v; want %q", err, tt.want)
			}
		})
	}
}

func TestTheAdviceFitsTheCause(t *testing.T) {
	cut := bootfile.CheckDTB(bytes.NewReader(nil), 10)
	for name, tt := range map[string]struct {
		err         error
		want, never string
	}{
		"no source is reachable":     {fmt.Errorf("resolve: %w", cas.ErrUnreachable), "network cable", "memory"},
		"not signed":                 {fmt.Errorf("resolve: %w", manifest.ErrUntrusted), "root.json", "cable"},
		"expired":                    {fmt.Errorf("resolve: %w", manifest.ErrExpired), "clock", "cable"},
		"wrong bytes":                {fmt.Errorf("fetch: %w", cas.ErrCorrupt), "another publisher", "cable"},
		"a kernel that cannot start": {fmt.Errorf("kexec: %w", cut), "its publisher", "cable"},
		"a missing file":             {fs.ErrNotExist, "in the menu", "cable"},
		"too little memory":          {errMemory, "", "cable"},
		"no network card":            {network.ErrNoNIC, "", "cable"},
		"stopped at the console":     {context.Canceled, "", "cable"},
		"a broken root filesystem":   {squashError(unix.EINVAL), "not a squashfs", "cable"},
		"a release that fails":       {withAdvice(squashError(unix.EINVAL), targetAdvice), "inform its publisher", "cable"},
	} {
		t.Run(name, func(t *testing.T) {
			text := refusalText(withAdvice(tt.err, bootAdvice(tt.err)))
			if !strings.Contains(text, tt.want) || strings.Contains(text, tt.never) || strings.Contains(text, "to try") == (tt.want == "") {
				t.Errorf("got %q", text)
			}
		})
	}
}

func TestStatusShowsTheLastAttempt(t *testing.T) {
	dir := t.TempDir()
	attempt := newReport(io.Discard)
	attempt.Begin("network").Done("eth0 192.0.2.7/24")
	_ = attempt.Begin("cache").Fail(errors.New("no disk"))
	attempt.Refuse("12D3\x1b[2J", "block", errors.New("wrong hash"))
	data, err := json.Marshal(attempt)
	if err != nil {
		t.Fatal(err)
	}
	report, reason := filepath.Join(dir, "report"), filepath.Join(dir, "reason")
	for file, text := range map[string][]byte{report: data, reason: []byte(refusalText(errors.New("resolve: no source")))} {
		if err := os.WriteFile(file, text, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	var out strings.Builder
	if err := status(&out, report, reason); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"clock    20", "memory   ", "network  ", "] network: eth0 192.0.2.7/24\n", "] cache: failed: no disk\n", "refused  block from 12D3", "boot refused: resolve: no source"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no %q in\n%s", want, out.String())
		}
	}
	if strings.Contains(out.String(), "\x1b") {
		t.Error("an escape reaches the terminal")
	}
	out.Reset()
	if err := status(&out, "/missing", "/missing"); err != nil || !strings.Contains(out.String(), "no attempt has failed") {
		t.Errorf("%v in %q", err, out.String())
	}
}

// The init is checked before the root is switched.
func TestAnInitThatCannotStartIsRefused(t *testing.T) {
	for name, tt := range map[string]struct {
		put  func(path string) error
		want string
	}{
		"a program":        {func(p string) error { return os.WriteFile(p, []byte("\x7fELF\x02\x01"), 0o755) }, ""},
		"a script":         {func(p string) error { return os.WriteFile(p, []byte("#!/bin/sh\n"), 0o755) }, ""},
		"an absolute link": {func(p string) error { return os.Symlink("/lib/systemd/systemd", p) }, ""},
		"nothing":          {func(string) error { return nil }, "does not exist"},
		"no right to run":  {func(p string) error { return os.WriteFile(p, []byte("\x7fELF\x02\x01"), 0o644) }, "not an executable program"},
		"a text":           {func(p string) error { return os.WriteFile(p, []byte("systemd\n"), 0o755) }, "not an executable program"},
		"an empty file":    {func(p string) error { return os.WriteFile(p, nil, 0o755) }, "not an executable program"},
		"a folder":         {func(p string) error { return os.Mkdir(p, 0o755) }, "not an executable program"},
		"a pipe":           {func(p string) error { return unix.Mkfifo(p, 0o755) }, "not an executable program"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			if err := errors.Join(os.Mkdir(filepath.Join(dir, "sbin"), 0o755), tt.put(filepath.Join(dir, "sbin/init"))); err != nil {
				t.Fatal(err)
			}
			err := checkInit(dir, nextInit)
			if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v; want %q", err, tt.want)
			}
		})
	}
}
