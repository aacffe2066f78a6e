package machine

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"strings"
	"sync"
	"testing"

	"github.com/u-root/u-root/pkg/cpio"
	"golang.org/x/sys/unix"

	"github.com/phaseboot/phaseboot/bootclient/fetch"
	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/manifest"
)

const plenty = 1 << 40

// files has the artifacts of a small release. No length is a multiple of 4.
var files = map[string][]byte{
	"initramfs":      noise(1, 4099),
	"job/hello.wasm": noise(2, 777),
	"kernel":         noise(3, 70001),
	"rootfs":         noise(4, 300003),
}

func noise(seed byte, n int) []byte {
	b := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{seed}).Read(b)
	return b
}

func releaseOf(files map[string][]byte) manifest.Release {
	r := manifest.Release{Version: "1.2.3", Channel: "stable", Arch: "x86_64"}
	for _, role := range []string{"initramfs", "job/hello.wasm", "kernel", "rootfs"} {
		data, ok := files[role]
		if !ok {
			continue
		}
		sum := sha256.Sum256(data)
		r.Artifacts = append(r.Artifacts, manifest.Artifact{Role: role, Length: int64(len(data)), SHA256: hex.EncodeToString(sum[:])})
	}
	return r
}

// fill opens every artifact, in another order than that of the layout, and writes them in pieces
// from several goroutines.
func fill(t *testing.T, p *Payload, files map[string][]byte) map[string]fetch.Target {
	t.Helper()
	targets := map[string]fetch.Target{}
	for _, role := range []string{"rootfs", "kernel", "job/hello.wasm", "initramfs"} {
		data, ok := files[role]
		if !ok {
			continue
		}
		target, err := p.Open(role, int64(len(data)))
		if err != nil {
			t.Fatal(err)
		}
		targets[role] = target
	}
	var wg sync.WaitGroup
	for role, target := range targets {
		for off := 0; off < len(files[role]); off += 10000 {
			wg.Go(func() {
				piece := files[role][off:min(off+10000, len(files[role]))]
				if _, err := target.WriteAt(piece, int64(off)); err != nil {
					t.Error(err)
				}
			})
		}
	}
	wg.Wait()
	return targets
}

func committed(t *testing.T) (*Payload, map[string]fetch.Target) {
	t.Helper()
	p := NewPayload([]byte("KEY"), plenty)
	t.Cleanup(p.Abort)
	targets := fill(t, p, files)
	if err := p.commit(releaseOf(files), manifest.MachineSettings{}, newReport(io.Discard)); err != nil {
		t.Fatal(err)
	}
	return p, targets
}

func content(t *testing.T, f *os.File) []byte {
	t.Helper()
	info, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	data, err := io.ReadAll(io.NewSectionReader(f, 0, info.Size()))
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// handedOver returns the files of the archive after the initramfs.
func handedOver(t *testing.T, p *Payload) map[string][]byte {
	t.Helper()
	initrd := content(t, p.initrd)
	head, rest := initrd[:len(files["initramfs"])], initrd[align4(int64(len(files["initramfs"]))):]
	if !bytes.Equal(head, files["initramfs"]) {
		t.Error("the initramfs is not first")
	}
	records, err := cpio.ReadAllRecords(cpio.Newc.Reader(bytes.NewReader(rest)))
	if err != nil {
		t.Fatal(err)
	}
	got := map[string][]byte{}
	for _, r := range records {
		if got[r.Name], err = io.ReadAll(io.NewSectionReader(r, 0, int64(r.FileSize))); err != nil {
			t.Fatal(err)
		}
		if r.Name == "phase/machine.key" && r.Mode&0o777 != 0o600 {
			t.Errorf("machine.key has mode %o", r.Mode)
		}
	}
	return got
}

func TestAPayloadHasTheArchiveAfterTheInitramfs(t *testing.T) {
	p, _ := committed(t)
	if !bytes.Equal(content(t, p.kernel), files["kernel"]) {
		t.Error("the kernel's memory is not the kernel")
	}
	got := handedOver(t, p)
	if !bytes.Equal(got["phase/rootfs.squashfs"], files["rootfs"]) || !bytes.Equal(got["phase/job/hello.wasm"], files["job/hello.wasm"]) {
		t.Error("rootfs or job differ")
	}
	var rel manifest.Release
	if err := json.Unmarshal(got["phase/release.json"], &rel); err != nil || rel.Version != "1.2.3" {
		t.Errorf("release.json: %s, %v", got["phase/release.json"], err)
	}
	if string(got["phase/machine.key"]) != "KEY" || !json.Valid(got["phase/report.json"]) || !bytes.Contains(got["phase/report.json"], []byte(`"steps":[]`)) {
		t.Error("key or report differ")
	}
}

func TestNothingCanChangeASealedPayload(t *testing.T) {
	p, targets := committed(t)
	for role, target := range targets {
		if _, err := target.WriteAt([]byte("x"), 0); !errors.Is(err, unix.EPERM) {
			t.Errorf("%s: write after sealing: %v", role, err)
		}
	}
	for _, f := range []*os.File{p.kernel, p.initrd} {
		if err := f.Truncate(1); !errors.Is(err, unix.EPERM) {
			t.Errorf("%s: truncate after sealing: %v", f.Name(), err)
		}
		if _, err := unix.Mmap(int(f.Fd()), 0, 4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED); !errors.Is(err, unix.EPERM) {
			t.Errorf("%s: writable map after sealing: %v", f.Name(), err)
		}
		if _, err := unix.FcntlInt(f.Fd(), unix.F_ADD_SEALS, 0); !errors.Is(err, unix.EPERM) {
			t.Errorf("%s: another seal: %v", f.Name(), err)
		}
	}
}

func TestAByteThatChangedBeforeSealingIsFoundAfterIt(t *testing.T) {
	for role := range files {
		t.Run(role, func(t *testing.T) {
			p := NewPayload(nil, plenty)
			t.Cleanup(p.Abort)
			targets := fill(t, p, files)
			if _, err := targets[role].WriteAt([]byte{^files[role][100]}, 100); err != nil {
				t.Fatal(err)
			}
			err := p.commit(releaseOf(files), manifest.MachineSettings{}, newReport(io.Discard))
			if !errors.Is(err, cas.ErrCorrupt) || !strings.Contains(err.Error(), role) {
				t.Errorf("commit = %v", err)
			}
		})
	}
}

func TestAWriteOutsideItsArtifactIsRefused(t *testing.T) {
	p := NewPayload(nil, plenty)
	t.Cleanup(p.Abort)
	targets := fill(t, p, files)
	size := int64(len(files["initramfs"]))
	for _, off := range []int64{-1, size, size - 1, 1 << 62} {
		if _, err := targets["initramfs"].WriteAt([]byte("xy"), off); err == nil {
			t.Errorf("write at %d of %d was accepted", off, size)
		}
	}
	if err := p.commit(releaseOf(files), manifest.MachineSettings{}, newReport(io.Discard)); err != nil {
		t.Error(err)
	}
}

func TestReadAtReturnsTheWrittenBytes(t *testing.T) {
	p := NewPayload(nil, plenty)
	t.Cleanup(p.Abort)
	for role, target := range fill(t, p, files) {
		got, err := io.ReadAll(io.NewSectionReader(target, 0, int64(len(files[role]))))
		if err != nil || !bytes.Equal(got, files[role]) {
			t.Errorf("%s: read back %d bytes, %v", role, len(got), err)
		}
	}
}

// The initramfs comes first, byte for byte as signed, so a release that does not know /phase is not
// changed by it.
func TestAReleaseWithoutRootfsGetsTheFilesToo(t *testing.T) {
	bare := map[string][]byte{"kernel": files["kernel"], "initramfs": files["initramfs"]}
	p := NewPayload([]byte("KEY"), plenty)
	t.Cleanup(p.Abort)
	p.handOver = func(manifest.Release, []byte) []handedFile { return []handedFile{text("network/setup", "up")} }
	p.seed = seedPlan{env: []byte("ENV"), nodes: t.TempDir()}
	fill(t, p, bare)
	if err := p.commit(releaseOf(bare), manifest.MachineSettings{}, newReport(io.Discard)); err != nil {
		t.Fatal(err)
	}
	got := handedOver(t, p)
	if string(got["phase/network/setup"]) != "up" || string(got["phase/machine.key"]) != "KEY" || got["phase/release.json"] == nil {
		t.Errorf("handed over: %q", got)
	}
	if got["phase/seed.env"] != nil || !strings.Contains(p.seed.summary, "no root filesystem") {
		t.Errorf("it serves: %q", p.seed.summary)
	}
}

// The report that the target gets, and sends, names the settings that could not be opened.
func TestTheReportNamesSettingsThatWereNotOpened(t *testing.T) {
	p := NewPayload(nil, plenty)
	t.Cleanup(p.Abort)
	rep := newReport(io.Discard)
	b := &boot{report: rep, payload: p}
	p.openSettings = b.openSettings
	fill(t, p, files)
	s := manifest.Settings{Hostname: "node1", Secrets: map[string][]byte{"token": []byte("sealed")}}
	if err := p.commit(releaseOf(files), manifest.MachineSettings{Settings: s}, rep); err != nil {
		t.Fatal(err)
	}
	said := handedOver(t, p)["phase/"+reportName]
	if !bytes.Contains(said, []byte(`"what":"secret token"`)) || len(p.opened) != 1 {
		t.Errorf("%s; files %+v", said, p.opened)
	}
}

func TestAKernelWithoutAnInitramfsGetsNone(t *testing.T) {
	bare := map[string][]byte{"kernel": files["kernel"]}
	p := NewPayload([]byte("KEY"), plenty)
	t.Cleanup(p.Abort)
	fill(t, p, bare)
	if err := p.commit(releaseOf(bare), manifest.MachineSettings{}, newReport(io.Discard)); err != nil {
		t.Fatal(err)
	}
	if n := len(content(t, p.initrd)); n != 0 {
		t.Errorf("%d bytes were appended", n)
	}
}

func TestTooLittleMemoryIsRefusedBeforeAnythingIsFetched(t *testing.T) {
	p := NewPayload(nil, 200<<20)
	if _, err := p.Open("kernel", 10<<20); err != nil {
		t.Fatal(err)
	}
	if _, err := p.Open("rootfs", 60<<20); err == nil || !strings.Contains(err.Error(), "give the machine") {
		t.Errorf("got %v", err)
	}
}

func TestAnUnknownRoleIsRefusedAndDeviceTreesAreSkipped(t *testing.T) {
	p := NewPayload(nil, plenty)
	if _, err := p.Open("firmware", 1); err == nil {
		t.Error("an unknown role was accepted")
	}
	if target, err := p.Open("dtb/board.dtb", 1); target != nil || err != nil {
		t.Errorf("dtb: %v, %v", target, err)
	}
}

func TestLoadWithTooLittleMemoryIsRefused(t *testing.T) {
	p, _ := committed(t)
	if err := p.Load("quiet", "x86_64", p.Size()); err == nil || !strings.Contains(err.Error(), "give the machine more") {
		t.Errorf("got %v", err)
	}
}

// A signed kernel that would crash the machine at the jump is refused before the jump.
func TestAKernelThatCannotStartIsNotLoaded(t *testing.T) {
	whole := make([]byte, 5*512+64<<10)
	for at, text := range map[int]string{
		0x1f1: "\x04", 0x1f4: "\x00\x10\x00\x00", 0x1fe: "\x55\xaa", 0x202: "HdrS", 0x206: "\x0f\x02", 0x211: "\x01", 0x236: "\x3f\x00",
	} {
		copy(whole[at:], text)
	}
	arm := make([]byte, 4096)
	copy(arm[16:], "\x00\x10")
	copy(arm[56:], "ARM\x64")
	for name, tt := range map[string]struct {
		kernel []byte
		arch   string
		want   string // "" for one that may be loaded
	}{
		"a bzImage":               {whole, "x86_64", ""},
		"an arm64 Image":          {arm, "arm64", ""},
		"cut short":               {whole[:len(whole)/2], "x86_64", "cut short"},
		"without its last byte":   {whole[:len(whole)-1], "x86_64", "cut short"},
		"of another architecture": {arm, "x86_64", "for arm64"},
		"on another architecture": {whole, "arm64", "for x86_64"},
		"a text":                  {[]byte("vmlinuz\n"), "x86_64", "text"},
		"nothing":                 {nil, "x86_64", "empty"},
	} {
		t.Run(name, func(t *testing.T) {
			f, err := memfd("kernel")
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			if _, err := f.Write(tt.kernel); err != nil {
				t.Fatal(err)
			}
			p := &Payload{kernel: f, initrd: f}
			if err = p.checkKernel(tt.arch); tt.want != "" {
				err = p.Load("quiet", tt.arch, plenty)
			}
			if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), "kernel of the release: ") || err != nil && !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v; want %q", err, tt.want)
			}
		})
	}
}

// kexec_file_load takes an arm64 Image only. A compressed one is decompressed into sealed memory.
func TestACompressedKernelIsDecompressedForKexec(t *testing.T) {
	image := make([]byte, 1<<20)
	copy(image[16:], "\x00\x00\x10")
	copy(image[56:], "ARM\x64")
	var zipped bytes.Buffer
	z := gzip.NewWriter(&zipped)
	if _, err := z.Write(image); err != nil || z.Close() != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct {
		file []byte
		same bool
	}{"an Image": {image, true}, "in a gzip file": {zipped.Bytes(), false}} {
		f, err := memfd("kernel")
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if _, err := f.Write(tt.file); err != nil {
			t.Fatal(err)
		}
		opened, err := openedKernel(f)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		got, err := io.ReadAll(io.NewSectionReader(opened, 0, 2<<20))
		if err != nil || !bytes.Equal(got, image) || (opened == f) != tt.same {
			t.Errorf("%s: %d bytes, %v, the same file: %t", name, len(got), err, opened == f)
		}
		if _, err := opened.WriteAt([]byte("x"), 0); !tt.same && err == nil {
			t.Errorf("%s: the memory is not sealed", name)
		}
	}
}

func TestKexecErrorsAreExplained(t *testing.T) {
	for errno, want := range map[unix.Errno]string{
		unix.ENOSYS: "CONFIG_KEXEC_FILE", unix.EPERM: notPermitted(os.Geteuid() == 0, kexecDisabled()), unix.EBUSY: "try again",
		unix.ENOEXEC: "architecture", unix.ENOMEM: "too little free memory", unix.EKEYREJECTED: "lockdown", unix.ELIBBAD: "lockdown",
	} {
		if err := kexecError(errno); !errors.Is(err, errno) || !strings.Contains(err.Error(), want) {
			t.Errorf("%v: %v", errno, err)
		}
	}
	for text, got := range map[string]string{"only root": notPermitted(false, true), "kexec_load_disabled": notPermitted(true, true), "lockdown": notPermitted(true, false)} {
		if !strings.Contains(got, text) {
			t.Errorf("%q, want %q", got, text)
		}
	}
	if kexecError(nil) != nil || segmentsError(nil) != nil {
		t.Error("nil is an error")
	}
	locked := lockedDown
	if os.Geteuid() != 0 || kexecDisabled() {
		locked = "not permitted"
	}
	for errno, want := range map[unix.Errno]string{
		unix.ENOSYS: "without CONFIG_KEXEC;", unix.EPERM: locked, unix.EBUSY: "cannot stop the processors", unix.ENOMEM: "too little free memory",
	} {
		if err := segmentsError(errno); !errors.Is(err, errno) || !strings.Contains(err.Error(), want) {
			t.Errorf("kexec_load: %v: %v", errno, err)
		}
	}
}

// bootclient.Run does not hash the artifacts of a Payload.
var _ interface {
	fetch.Sink
	fetch.Planner
	fetch.SelfVerifier
} = (*Payload)(nil)
