package machine

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"github.com/phaseboot/phaseboot/bootclient/report"
	"github.com/phaseboot/phaseboot/manifest"
)

const (
	// seedReserve is the memory that must stay free for a target that serves from memory: for
	// its program and its heap.
	seedReserve = 64 << 20
	// maxSeedFraction limits the extra files to 1/maxSeedFraction of the machine's memory.
	maxSeedFraction = 16
)

// An extraFile is a file that the payload contains only for the target to serve it.
type extraFile struct {
	name string
	data *io.SectionReader
}

// appendSeedFiles appends to the archive the files that the target serves from memory. If there
// is too little memory, or on any error, it removes them from the archive again and the target
// does not serve; the boot itself is not affected.
func (p *Payload) appendSeedFiles(minRAM int64) {
	if p.seed.nodes == "" {
		return
	}
	before := *p.cpio
	size, err := p.appendExtraFiles(minRAM)
	if err == nil {
		p.seed.summary = fmt.Sprintf("from memory after the jump, %s kept", report.Bytes(size))
		return
	}
	*p.cpio = before
	err = errors.Join(err, p.initrd.Truncate(before.off))
	p.seed = p.seed.off(fmt.Sprintf("no cache partition to serve from, and %v", err))
}

// appendExtraFiles appends the extra files to the archive and returns their size in bytes.
func (p *Payload) appendExtraFiles(minRAM int64) (size int64, err error) {
	files, err := p.extraFiles()
	if err != nil {
		return 0, fmt.Errorf("no files to serve: %w", err)
	}
	for _, f := range files {
		size += f.data.Size()
	}
	if err := p.checkSeedMemory(size, minRAM); err != nil {
		return 0, err
	}
	for _, f := range files {
		off, err := p.cpio.add(cpioEntry{name: f.name, mode: modeFile | 0o644, size: f.data.Size()})
		if err != nil {
			return 0, err
		}
		if _, err := io.Copy(io.NewOffsetWriter(p.initrd, off), f.data); err != nil {
			return 0, err
		}
	}
	return size, nil
}

// extraFiles returns the kernel and the initramfs, which a running system cannot read back, and
// the cache of metadata and inner nodes that Run kept. The target has the root filesystem in
// memory anyway.
func (p *Payload) extraFiles() ([]extraFile, error) {
	var files []extraFile
	for _, a := range p.artifacts {
		if a.role == manifest.RoleKernel || a.role == manifest.RoleInitramfs {
			files = append(files, extraFile{"phase/" + a.role, io.NewSectionReader(a.file, a.off, a.size)})
		}
	}
	nodes := os.DirFS(p.seed.nodes)
	err := fs.WalkDir(nodes, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := fs.ReadFile(nodes, name)
		files = append(files, extraFile{"phase/cache/" + name, io.NewSectionReader(bytes.NewReader(data), 0, int64(len(data)))})
		return err
	})
	return files, err
}

// checkSeedMemory returns why the payload must not grow by size bytes: kexec would lack memory for
// its copies, or the target would have less than the release requires.
func (p *Payload) checkSeedMemory(size, minRAM int64) error {
	total, free := p.meminfo("MemTotal"), p.meminfo("MemAvailable")
	if need := size + (kexecCopies-1)*(p.Size()+size) + unpackMemory(p.kernel) + seedReserve; need > free {
		return fmt.Errorf("serving %s from memory needs %s free, not %s", report.Bytes(size), report.Bytes(need), report.Bytes(free))
	}
	if size > total/maxSeedFraction {
		return fmt.Errorf("the files to serve have %s, more than 1/%d of the memory", report.Bytes(size), maxSeedFraction)
	}
	if minRAM > 0 && checkMinRAM(minRAM+(size+seedReserve)>>20, total) != nil {
		return fmt.Errorf("the release requires its %d MiB for itself", minRAM)
	}
	return nil
}
