package machine

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/phaseboot/phaseboot/bootclient"
	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/manifest"
)

const (
	// kexecCopies is how often a payload stands in memory at the worst moment:
	// the memfd, the buffer into which kexec_file_load reads it, and the pages
	// from which the next kernel starts.
	kexecCopies = 3
	// workMemory is what a kernel needs beside its copies: room to unpack itself
	// (38 MiB for Debian's) and the heap of the fetch. With less the OOM killer ends
	// the load. Load asks the kernel's own header for the exact figure.
	workMemory = 48 << 20
)

// A Payload is a release in memory, as kexec takes it: one memfd with the
// kernel and one with
//
//	[release initramfs][zeros to 4][cpio: /phase/rootfs.squashfs, /phase/job/…,
//	 /phase/release.json, /phase/report.json, /phase/machine.key and, where the
//	 target may serve others, /phase/root.json, /phase/seed.env; where it does so from
//	 memory, /phase/kernel, /phase/initramfs, /phase/cache/…]
//
// It is a bootclient.Sink: bytes go to their final place as they verify. Commit
// seals both files, after which not even this process can change them, and hashes
// every artifact once more where it lies.
type Payload struct {
	key     []byte // PEM, handed to the target
	memory  int64  // bytes that may be used, all copies counted
	seed    seedPlan
	meminfo func(name string) int64

	parts  []*part
	kernel *os.File
	initrd *os.File
	cpio   *cpioWriter // nil when nothing is handed over
	place  sync.Once
	failed error // of place
}

// NewPayload returns an empty payload. key is the machine's private key in PEM;
// memory is how many bytes are free.
func NewPayload(key []byte, memory int64) *Payload {
	return &Payload{key: key, memory: memory, meminfo: meminfo}
}

// A part is the place of one artifact.
type part struct {
	payload *Payload
	role    string
	size    int64
	file    *os.File
	off     int64
}

// Plan refuses a release that is too large for this machine before anything of it is
// fetched.
func (p *Payload) Plan(r manifest.Release) error {
	total := p.meminfo("MemTotal")
	if err := enoughMemory(r.MinRAM, total); err != nil {
		return err
	}
	size := int64(0)
	for _, a := range r.Artifacts {
		if !isDeviceTree(a.Role) {
			size += a.Length
		}
	}
	return enoughFor(size, p.memory, total)
}

func isDeviceTree(role string) bool { return strings.HasPrefix(role, "dtb/") }

// Open makes room for an artifact. Device trees are not wanted: kexec_file_load
// cannot pass one, the next kernel gets the firmware's.
func (p *Payload) Open(role string, size int64) (bootclient.Target, error) {
	if isDeviceTree(role) {
		return nil, nil
	}
	if role != manifest.RoleKernel && role != manifest.RoleInitramfs && archiveName(role) == "" {
		return nil, fmt.Errorf("artifact %.40q: a role that this machine does not know; boot it from a newer image", role)
	}
	total := size
	for _, have := range p.parts {
		total += have.size
	}
	if err := enoughFor(total, p.memory, p.meminfo("MemTotal")); err != nil {
		return nil, err
	}
	t := &part{payload: p, role: role, size: size}
	p.parts = append(p.parts, t)
	return t, nil
}

// layout creates the memfds and gives every part its place. It runs at the first
// access, when all parts are known.
func (p *Payload) layout() error {
	p.place.Do(func() { p.failed = p.makeLayout() })
	return p.failed
}

func (p *Payload) makeLayout() error {
	var err error
	if p.kernel, err = memfd("phase-kernel"); err != nil {
		return err
	}
	if p.initrd, err = memfd("phase-initrd"); err != nil {
		return err
	}
	end := int64(0)
	for _, t := range p.parts {
		switch t.role {
		case manifest.RoleKernel:
			t.file = p.kernel
		case manifest.RoleInitramfs:
			t.file = p.initrd
			end = t.size
		}
	}
	for _, t := range p.parts {
		if t.file != nil {
			continue
		}
		if p.cpio == nil {
			p.cpio = &cpioWriter{w: p.initrd, off: align4(end)}
		}
		t.file = p.initrd
		if t.off, err = p.cpio.add(cpioEntry{name: archiveName(t.role), mode: modeFile | 0o644, size: t.size}); err != nil {
			return err
		}
	}
	return nil
}

func memfd(name string) (*os.File, error) {
	fd, err := unix.MemfdCreate(name, unix.MFD_ALLOW_SEALING|unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("memfd: %w; the boot kernel needs CONFIG_MEMFD_CREATE", err)
	}
	return os.NewFile(uintptr(fd), name), nil
}

// WriteAt writes inside the artifact's own range and nowhere else.
func (t *part) WriteAt(b []byte, off int64) (int, error) {
	if err := t.payload.layout(); err != nil {
		return 0, err
	}
	if off < 0 || off > t.size || int64(len(b)) > t.size-off {
		return 0, fmt.Errorf("%s: write of %d bytes at %d, past its signed length %d", t.role, len(b), off, t.size)
	}
	n, err := t.file.WriteAt(b, t.off+off)
	if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.ENOMEM) {
		err = fmt.Errorf("%s: %w; the machine has too little memory for this release", t.role, err)
	}
	return n, err
}

// ReadAt reads inside the artifact's own range.
func (t *part) ReadAt(b []byte, off int64) (int, error) {
	if err := t.payload.layout(); err != nil {
		return 0, err
	}
	return io.NewSectionReader(t.file, t.off, t.size).ReadAt(b, off)
}

// Commit appends what the target is told, seals the memory, and compares every
// artifact with the manifest again, now that nothing can change it any more.
func (p *Payload) Commit(v *manifest.Verified, r *bootclient.Report) error {
	report, err := json.Marshal(r)
	if err != nil {
		return err
	}
	return p.commit(v.Release(), report, r)
}

func (p *Payload) commit(release manifest.Release, report []byte, r *bootclient.Report) error {
	if err := p.layout(); err != nil {
		return err
	}
	if p.cpio != nil {
		if err := p.handOver(release, report); err != nil {
			return err
		}
	} else if p.seed.env != nil {
		p.seed = seedPlan{words: "serves nobody after the jump: the release has no root filesystem"}
	}
	for _, f := range []*os.File{p.kernel, p.initrd} {
		if err := seal(f); err != nil {
			return err
		}
	}
	return p.check(release, r)
}

func (p *Payload) handOver(release manifest.Release, report []byte) error {
	rel, err := json.Marshal(release)
	if err != nil {
		return err
	}
	p.stockSeed(release.MinRAM)
	for _, f := range []struct {
		name string
		perm uint32
		data []byte
	}{
		{"phase/release.json", 0o644, rel},
		{"phase/report.json", 0o644, report},
		{"phase/machine.key", 0o600, p.key},
		{"phase/" + seedRoot, 0o644, p.seed.root},
		{"phase/" + seedFile, 0o644, p.seed.env},
	} {
		if f.data == nil {
			continue
		}
		if err := p.cpio.file(f.name, f.perm, f.data); err != nil {
			return fmt.Errorf("payload: %w", err)
		}
	}
	if _, err = p.cpio.close(); err != nil {
		return fmt.Errorf("payload: %w", err)
	}
	return nil
}

// seal makes a memfd immutable for everybody, its owner included.
func seal(f *os.File) error {
	_, err := unix.FcntlInt(f.Fd(), unix.F_ADD_SEALS, unix.F_SEAL_WRITE|unix.F_SEAL_SHRINK|unix.F_SEAL_GROW|unix.F_SEAL_SEAL)
	if err != nil {
		return fmt.Errorf("seal %s: %w", f.Name(), err)
	}
	return nil
}

// check hashes what lies in the sealed files. It is the last look before kexec
// reads the same files. The report says how far it is when it takes long.
func (p *Payload) check(release manifest.Release, report *bootclient.Report) (err error) {
	var done, total atomic.Int64
	for _, t := range p.parts {
		total.Add(t.size)
	}
	words := func(time.Duration) string { return "check: " + words(done.Load()) + " of " + words(total.Load()) }
	report.While(words, func() {
		for _, t := range p.parts {
			if err = t.check(release, &done); err != nil {
				return
			}
		}
	})
	return err
}

// check hashes one artifact and counts its bytes.
func (t *part) check(release manifest.Release, done *atomic.Int64) error {
	a, ok := release.Artifact(t.role)
	if !ok || a.Length != t.size {
		return fmt.Errorf("%s: not the %d bytes that were signed: %w", t.role, t.size, cas.ErrCorrupt)
	}
	h := sha256.New()
	if _, err := io.Copy(io.MultiWriter(h, counter{done}), io.NewSectionReader(t.file, t.off, t.size)); err != nil {
		return fmt.Errorf("%s: %w", t.role, err)
	}
	if sum := hex.EncodeToString(h.Sum(nil)); sum != a.SHA256 {
		return fmt.Errorf("%s: sha256 of the sealed memory is %s, signed is %s: %w", t.role, sum, a.SHA256, cas.ErrCorrupt)
	}
	return nil
}

// counter counts what is written to it.
type counter struct{ n *atomic.Int64 }

func (c counter) Write(p []byte) (int, error) {
	c.n.Add(int64(len(p)))
	return len(p), nil
}

// Abort frees the memory.
func (p *Payload) Abort() {
	for _, f := range []*os.File{p.kernel, p.initrd} {
		if f != nil {
			f.Close()
		}
	}
}

// Size returns the bytes of both files.
func (p *Payload) Size() int64 {
	var n int64
	for _, f := range []*os.File{p.kernel, p.initrd} {
		if info, err := f.Stat(); err == nil {
			n += info.Size()
		}
	}
	return n
}
