package signer

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/internal/bootfile/bootfiletest"
)

// Every kind of file is given for every role of a release: the right kind is signed, every other one
// is refused with the name of the flag, and signed with Unchecked.
func TestReleaseInspectsEachFileBeforeItSigns(t *testing.T) {
	b := newBench(t)
	kinds := map[string][]byte{
		"kernel": bootfiletest.Kernel("x86_64", "0123456789abcdef"), "arm64": bootfiletest.Kernel("arm64", ""),
		"initramfs": bootfiletest.Initramfs("init"), "rootfs": bootfiletest.Rootfs("root"), "job": bootfiletest.Job("x"),
		"component": []byte("\x00asm\x0d\x00\x01\x00"), "text": []byte("hello\n"), "noise": {0x93, 0x01, 0xfe, 0x88, 0x11},
		"dtb": append([]byte("\xd0\x0d\xfe\xed\x00\x00\x00\x28"), make([]byte, 32)...),
	}
	for _, kind := range []string{"kernel", "initramfs", "rootfs", "job", "dtb"} {
		kinds["cut-"+kind] = kinds[kind][:len(kinds[kind])-1]
	}
	for name, data := range kinds {
		b.write(t, name+".wasm", data)
	}
	for flag, set := range map[string]func(*ReleaseSpec, string){
		"kernel":    func(s *ReleaseSpec, p string) { s.Kernel = p },
		"initramfs": func(s *ReleaseSpec, p string) { s.Initramfs = p },
		"rootfs":    func(s *ReleaseSpec, p string) { s.Rootfs = p },
		"dtb":       func(s *ReleaseSpec, p string) { s.DTBs = []string{p} },
		"job":       func(s *ReleaseSpec, p string) { s.Job = p },
	} {
		for kind := range kinds {
			t.Run(flag+" is "+kind, func(t *testing.T) {
				s := b.spec()
				s.Out = t.TempDir() + "/R.json"
				path := b.path(kind + ".wasm")
				set(&s, path)
				_, err := Release(t.Context(), s)
				want := fs.ErrInvalid
				switch kind {
				case flag:
					want = nil
				case "cut-" + flag:
					want = cas.ErrCorrupt
				}
				if !errors.Is(err, want) || (err == nil) != (want == nil) || err != nil && !strings.HasPrefix(err.Error(), "--"+flag+" "+path+": ") {
					t.Fatalf("got %v, want %v", err, want)
				}
				if _, serr := os.Stat(s.Out); (serr == nil) != (err == nil) {
					t.Errorf("manifest: %v", serr)
				}
				s.Unchecked = true
				if _, err := Release(t.Context(), s); err != nil {
					t.Errorf("unchecked: %v", err)
				}
			})
		}
	}
}

func TestReleaseSaysThatKernelAndInitramfsAreSwapped(t *testing.T) {
	s := newBench(t).spec()
	s.Kernel, s.Initramfs = s.Initramfs, s.Kernel
	if _, err := Release(t.Context(), s); err == nil || !strings.Contains(err.Error(), "this is an initramfs (cpio archive), not a kernel") || !strings.Contains(err.Error(), "--kernel and --initramfs are swapped") {
		t.Errorf("got %v", err)
	}
}

func TestReleaseRefusesAnArchitectureByTheKernelsHeader(t *testing.T) {
	b := newBench(t)
	s := b.spec()
	s.Arch = "arm64"
	if _, err := Release(t.Context(), s); !errors.Is(err, fs.ErrInvalid) || !strings.Contains(err.Error(), "for x86_64, and the release is for arm64") {
		t.Errorf("got %v", err)
	}
	b.write(t, "Image", bootfiletest.Kernel("arm64", ""))
	s.Kernel = b.path("Image")
	if _, err := Release(t.Context(), s); err != nil {
		t.Error(err)
	}
}

// The loader of phase-boot would refuse this kernel on every machine.
func TestReleaseRefusesAnArm64KernelThatKexecCannotPlace(t *testing.T) {
	b := newBench(t)
	s := b.spec()
	s.Arch, s.Kernel = "arm64", b.path("Image")
	for at, says := range map[int]string{24: "big-endian", 8: "damaged header"} { // flags, text offset
		image := bootfiletest.Kernel("arm64", "")
		image[at] = 1
		b.write(t, "Image", image)
		if _, err := Release(t.Context(), s); !errors.Is(err, fs.ErrInvalid) || !strings.Contains(err.Error(), "--kernel "+s.Kernel+": ") || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: %v", says, err)
		}
	}
}

// sparse makes a file of a size that uses no disk space.
func (b bench) sparse(t *testing.T, name string, data []byte, size int64) string {
	t.Helper()
	b.write(t, name, data)
	if err := os.Truncate(b.path(name), size); err != nil {
		t.Fatal(err)
	}
	return b.path(name)
}

func TestReleaseRefusesFilesTooLargeForKexec(t *testing.T) {
	b := newBench(t)
	for name, c := range map[string]struct{ initramfs, rootfs int64 }{
		"rootfs of 5 GiB":               {1 << 20, 5 << 30},
		"rootfs and initramfs together": {2 << 30, 2 << 30},
	} {
		t.Run(name, func(t *testing.T) {
			s := b.spec()
			s.Initramfs = b.sparse(t, "big.initramfs", bootfiletest.Initramfs(""), c.initramfs)
			s.Rootfs = b.sparse(t, "big.rootfs", bootfiletest.Rootfs(""), c.rootfs)
			if _, err := Release(t.Context(), s); !errors.Is(err, fs.ErrInvalid) || !strings.Contains(err.Error(), "4 GiB") {
				t.Errorf("got %v", err)
			}
		})
	}
}

// A device may never end, and a pipe without a writer blocks.
func TestReleaseRefusesDevicesPipesAndFolders(t *testing.T) {
	b := newBench(t)
	if err := syscall.Mkfifo(b.path("pipe"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{"/dev/zero", "/dev/null", b.path("pipe"), b.dir} {
		s := b.spec()
		s.Rootfs = path
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		if _, err := Release(ctx, s); !errors.Is(err, fs.ErrInvalid) {
			t.Errorf("%s: %v", path, err)
		}
		cancel()
	}
}

// A file is replaced after it was inspected, or written to while it is hashed: the inspected bytes
// are signed, or nothing.
func TestAttackSubstitutedArtifactAtSigning(t *testing.T) {
	evil := bootfiletest.Kernel("x86_64", "evil evil evil!!")
	for name, c := range map[string]struct {
		swap func(t *testing.T, path string)
		want error
	}{
		"renamed over it": {func(t *testing.T, path string) {
			if err := errors.Join(os.WriteFile(path+".new", evil, 0o600), os.Rename(path+".new", path)); err != nil {
				t.Error(err)
			}
		}, nil},
		"written into it": {func(t *testing.T, path string) {
			if err := errors.Join(os.WriteFile(path, evil, 0o600), os.Chtimes(path, noon, noon)); err != nil {
				t.Error(err)
			}
		}, cas.ErrCorrupt},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			s := b.spec()
			original, err := os.ReadFile(s.Kernel)
			if err != nil {
				t.Fatal(err)
			}
			s.Watch = func(path string, _ int64, r io.Reader) io.ReadCloser {
				if path == s.Kernel {
					c.swap(t, path)
				}
				return io.NopCloser(r)
			}
			sum, err := Release(t.Context(), s)
			if !errors.Is(err, c.want) {
				t.Fatalf("got %v, want %v", err, c.want)
			}
			if err != nil {
				return
			}
			again, err := cas.FileCID(t.Context(), bytes.NewReader(original), s.Chunker)
			if err != nil {
				t.Fatal(err)
			}
			if a, _ := sum.Release.Artifact("kernel"); a.CID != again.CID {
				t.Error("the signed bytes are not the inspected ones")
			}
		})
	}
}
