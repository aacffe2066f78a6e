package machine

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/phaseboot/phaseboot/bootclient/fetch"
	"github.com/phaseboot/phaseboot/bootclient/report"
	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/manifest"
)

const (
	// kexecCopies is how many copies of the payload are in memory at the same time: the memfd,
	// the buffer into which kexec_file_load reads it, and the pages from which the next kernel
	// starts.
	kexecCopies = 3
	// segmentCopies is the same for kexec_load, which copies the pages of the memfd itself.
	segmentCopies = 2
	// workMemory is needed in addition to the copies: for the kernel to unpack itself (38 MiB
	// for Debian's) and for the heap of the fetch. With less, the OOM killer ends the load. Load
	// reads the exact figure from the kernel's header.
	workMemory = 48 << 20
)

// A Payload is a release in memory for kexec: a memfd with the kernel, and a memfd with
//
//	[release initramfs][zeros to 4][cpio: /phase/rootfs.squashfs, /phase/job/…,
//	 /phase/release.json, /phase/report.json, /phase/machine.key, /phase/network/… and, if
//	 the target may serve the release, /phase/root.json, /phase/seed.env; if it serves it
//	 from memory, /phase/kernel, /phase/initramfs, /phase/cache/…]
//
// and on arm64 a memfd with the device tree that the release has for this machine, if it has one. A
// boot set that the stick is to get has memfds of its own.
//
// It is a fetch.Sink and a fetch.SelfVerifier: verified blocks are written to their final place.
// Commit seals the memfds, after which not even this process can change them, and hashes every
// artifact there.
type Payload struct {
	key     []byte // PEM, handed to the target
	memory  int64  // bytes that all copies together may use
	seed    seedPlan
	meminfo func(name string) int64
	// handOver returns more files for the target: its report.json and its network. It is called at
	// Commit; nil for the report as it is.
	handOver func(r manifest.Release, reportJSON []byte) []handedFile
	// openSettings returns the files of the signed settings. It is called at Commit before handOver; nil for none.
	openSettings func(manifest.Settings) []handedFile
	opened       []handedFile             // its result
	handed       string                   // what of the network is handed over, in words
	renewal      *renewal                 // nil: the stick gets no boot set
	settings     manifest.MachineSettings // signed ones, set at Commit

	// compatible has the names of the machine in its device tree, of which one chooses a device tree of the release.
	compatible []string

	artifacts  []*artifact
	kernel     *os.File
	initrd     *os.File
	treeRole   string      // of the chosen device tree, "" for none
	tree       *os.File    // the chosen device tree, nil for none
	cpio       *cpioWriter // nil if nothing is handed over
	layoutOnce sync.Once
	layoutErr  error
}

// NewPayload returns an empty payload. key is the machine's private key in PEM; memory is the
// number of free bytes.
func NewPayload(key []byte, memory int64) *Payload {
	return &Payload{key: key, memory: memory, meminfo: meminfo}
}

// An artifact is the byte range of one artifact in a memfd.
type artifact struct {
	payload *Payload
	role    string
	size    int64
	file    *os.File
	off     int64
}

// Plan refuses a release that is too large for this machine, before it is fetched.
func (p *Payload) Plan(r manifest.Release) error {
	total := p.meminfo("MemTotal")
	if err := checkMinRAM(r.MinRAM, total); err != nil {
		return err
	}
	p.treeRole = deviceTreeOf(r, p.compatible)
	size := int64(0)
	for _, a := range r.Artifacts {
		if !p.skips(a.Role) && !manifest.IsBootSet(a.Role) {
			size += a.Length
		}
	}
	if err := checkPayloadMemory(size, p.memory); err != nil {
		return err
	}
	if p.renewal != nil {
		p.renewal.plan(r, func(more int64) error { return checkPayloadMemory(size, p.memory-more) })
	}
	return nil
}

// skips reports whether a role is a device tree for another machine.
func (p *Payload) skips(role string) bool { return isDeviceTree(role) && role != p.treeRole }

// Open adds an artifact. It returns nil for device trees, except the one that Plan has chosen: the next
// kernel of other machines uses the firmware's.
func (p *Payload) Open(role string, size int64) (fetch.Target, error) {
	if p.skips(role) {
		return nil, nil
	}
	if manifest.IsBootSet(role) {
		return p.openBootSet(role, size)
	}
	if role != manifest.RoleKernel && role != manifest.RoleInitramfs && !isDeviceTree(role) && archiveName(role) == "" {
		return nil, fmt.Errorf("artifact %.40q: unknown role; boot with a newer image", role)
	}
	total := size
	for _, a := range p.artifacts {
		if !manifest.IsBootSet(a.role) {
			total += a.size
		}
	}
	if err := checkPayloadMemory(total, p.memory); err != nil {
		return nil, err
	}
	a := &artifact{payload: p, role: role, size: size}
	p.artifacts = append(p.artifacts, a)
	return a, nil
}

// layout creates the memfds and gives every artifact its byte range. It runs at the first access,
// when all artifacts are known.
func (p *Payload) layout() error {
	p.layoutOnce.Do(func() { p.layoutErr = p.makeLayout() })
	return p.layoutErr
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
	for _, a := range p.artifacts {
		switch a.role {
		case manifest.RoleKernel:
			a.file = p.kernel
		case manifest.RoleInitramfs:
			a.file = p.initrd
			end = a.size
		case p.treeRole:
			if p.tree, err = memfd("phase-device-tree"); err != nil {
				return err
			}
			a.file = p.tree
		}
	}
	if end > 0 { // a kernel without an initramfs may have a root filesystem of its own
		p.cpio = &cpioWriter{w: p.initrd, off: align4(end)}
	}
	for _, a := range p.artifacts {
		if a.file != nil {
			continue
		}
		if p.cpio == nil {
			p.cpio = &cpioWriter{w: p.initrd}
		}
		a.file = p.initrd
		if a.off, err = p.cpio.add(cpioEntry{name: archiveName(a.role), mode: modeFile | 0o644, size: a.size}); err != nil {
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

// WriteAt writes inside the artifact's byte range only.
func (a *artifact) WriteAt(b []byte, off int64) (int, error) {
	if err := a.payload.layout(); err != nil {
		return 0, err
	}
	if off < 0 || off > a.size || int64(len(b)) > a.size-off {
		return 0, fmt.Errorf("%s: write of %d bytes at %d is past its signed length of %d", a.role, len(b), off, a.size)
	}
	n, err := a.file.WriteAt(b, a.off+off)
	if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.ENOMEM) {
		err = fmt.Errorf("%s: %w; the machine has too little memory for this release", a.role, err)
	}
	return n, err
}

// ReadAt reads inside the artifact's byte range only.
func (a *artifact) ReadAt(b []byte, off int64) (int, error) {
	if err := a.payload.layout(); err != nil {
		return 0, err
	}
	return io.NewSectionReader(a.file, a.off, a.size).ReadAt(b, off)
}

// VerifiesSHA256 implements fetch.SelfVerifier: Commit hashes the sealed memory.
func (p *Payload) VerifiesSHA256() {}

// Commit appends the files for the target, seals the memory, and compares the length and sha256 of
// every artifact in the sealed memory with the manifest.
func (p *Payload) Commit(v *manifest.Verified, rep *report.Report) error {
	if err := p.commit(v.Release(), v.Settings(), rep); err != nil {
		return err
	}
	if p.renewal != nil {
		p.renewal.check(v.Root())
	}
	return nil
}

func (p *Payload) commit(release manifest.Release, settings manifest.MachineSettings, rep *report.Report) error {
	p.settings = settings
	if p.openSettings != nil {
		p.opened = p.openSettings(settings.Settings)
	}
	reportJSON, err := json.Marshal(rep)
	if err != nil {
		return err
	}
	if err := p.layout(); err != nil {
		return err
	}
	if _, ok := release.Artifact(manifest.RoleRootfs); !ok && p.seed.env != nil {
		p.seed = p.seed.off("the release has no root filesystem")
	}
	if p.cpio != nil {
		if err := p.appendHandOver(release, reportJSON); err != nil {
			return err
		}
	}
	for _, f := range append(p.files(), p.bootSet()...) {
		if err := seal(f); err != nil {
			return err
		}
	}
	return p.verify(release, rep)
}

// appendHandOver writes the files for the target and the end of the archive.
func (p *Payload) appendHandOver(release manifest.Release, reportJSON []byte) error {
	rel, err := json.Marshal(release)
	if err != nil {
		return err
	}
	p.appendSeedFiles(release.MinRAM)
	files := []handedFile{{"release.json", 0o644, rel}, {"machine.key", 0o600, p.key}, {seedRoot, 0o644, p.seed.root}, {seedFile, 0o644, p.seed.env}}
	if p.handOver == nil {
		files = append(files, handedFile{reportName, 0o644, reportJSON})
	} else {
		files = append(files, p.handOver(release, reportJSON)...)
	}
	for _, f := range files {
		if f.data == nil {
			continue
		}
		if err := p.cpio.file("phase/"+f.name, f.perm, f.data); err != nil {
			return fmt.Errorf("payload: %w", err)
		}
	}
	if _, err = p.cpio.close(); err != nil {
		return fmt.Errorf("payload: %w", err)
	}
	return nil
}

// seal makes a memfd immutable for every process, its owner included.
func seal(f *os.File) error {
	_, err := unix.FcntlInt(f.Fd(), unix.F_ADD_SEALS, unix.F_SEAL_WRITE|unix.F_SEAL_SHRINK|unix.F_SEAL_GROW|unix.F_SEAL_SEAL)
	if err != nil {
		return fmt.Errorf("seal %s: %w", f.Name(), err)
	}
	return nil
}

// verify hashes every artifact in the sealed memory: the last check before kexec reads the same
// memory. It reports its progress.
func (p *Payload) verify(release manifest.Release, rep *report.Report) (err error) {
	var done, total atomic.Int64
	for _, a := range p.artifacts {
		total.Add(a.size)
	}
	progress := func(time.Duration) string {
		return "check: " + report.Bytes(done.Load()) + " of " + report.Bytes(total.Load())
	}
	rep.While(progress, func() {
		for _, a := range p.artifacts {
			if err = a.verify(release, &done); err != nil {
				return
			}
		}
	})
	return err
}

// verify compares the length and sha256 of one artifact with the manifest. It counts the hashed
// bytes in done.
func (a *artifact) verify(release manifest.Release, done *atomic.Int64) error {
	signed, ok := release.Artifact(a.role)
	if !ok || signed.Length != a.size {
		return fmt.Errorf("%s: not the %d bytes that were signed: %w", a.role, a.size, cas.ErrCorrupt)
	}
	sum, err := sumSHA256(a.file, a.off, a.size, done, slowSHA256())
	if err != nil {
		return fmt.Errorf("%s: %w", a.role, err)
	}
	if got := hex.EncodeToString(sum); got != signed.SHA256 {
		return fmt.Errorf("%s: sha256 of the sealed memory is %s, signed is %s: %w", a.role, got, signed.SHA256, cas.ErrCorrupt)
	}
	return nil
}

// byteCounter counts the bytes that are written to it.
type byteCounter struct{ n *atomic.Int64 }

func (c byteCounter) Write(p []byte) (int, error) {
	c.n.Add(int64(len(p)))
	return len(p), nil
}

// Abort frees the memory.
func (p *Payload) Abort() {
	for _, f := range append(p.files(), p.bootSet()...) {
		f.Close()
	}
}

// files returns the memfds.
func (p *Payload) files() (list []*os.File) {
	for _, f := range []*os.File{p.kernel, p.initrd, p.tree} {
		if f != nil {
			list = append(list, f)
		}
	}
	return list
}

// Size returns the size of the memfds in bytes.
func (p *Payload) Size() int64 {
	var n int64
	for _, f := range p.files() {
		if info, err := f.Stat(); err == nil {
			n += info.Size()
		}
	}
	return n
}
