package machine

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"github.com/dustin/go-humanize"

	"github.com/phaseboot/phaseboot/manifest"
)

const (
	// seedSpare is what must be left over for a target that serves from memory, its
	// program and its heap among it.
	seedSpare = 64 << 20
	// seedShare: of a machine's memory one part in so many may be kept for others.
	seedShare = 16
)

// A stocked file goes along with a payload for the target to serve it.
type stocked struct {
	name string
	data *io.SectionReader
}

// stockSeed appends to the archive what the target serves from memory. Where there is no
// room for that, and on any error, none of it stays in the archive, nobody is served, and
// the boot goes on as it would have without.
func (p *Payload) stockSeed(minRAM int64) {
	if p.seed.nodes == "" {
		return
	}
	before := *p.cpio
	size, err := p.appendStock(minRAM)
	if err == nil {
		p.seed.words = fmt.Sprintf("from memory after the jump, %s kept", humanize.IBytes(uint64(size)))
		return
	}
	*p.cpio = before
	err = errors.Join(err, p.initrd.Truncate(before.off))
	p.seed = seedPlan{words: fmt.Sprintf("serves nobody after the jump: no cache partition to serve from, and %v", err)}
}

// appendStock returns how many bytes it appended.
func (p *Payload) appendStock(minRAM int64) (size int64, err error) {
	stock, err := p.stock()
	if err != nil {
		return 0, fmt.Errorf("nothing was kept: %w", err)
	}
	for _, s := range stock {
		size += s.data.Size()
	}
	if err := p.room(size, minRAM); err != nil {
		return 0, err
	}
	for _, s := range stock {
		off, err := p.cpio.add(cpioEntry{name: s.name, mode: modeFile | 0o644, size: s.data.Size()})
		if err != nil {
			return 0, err
		}
		if _, err := io.Copy(io.NewOffsetWriter(p.initrd, off), s.data); err != nil {
			return 0, err
		}
	}
	return size, nil
}

// stock is kernel and initramfs, which no kernel gives back to its system, and the nodes
// that Run kept. The root filesystem lies in the target's memory anyway.
func (p *Payload) stock() ([]stocked, error) {
	var out []stocked
	for _, t := range p.parts {
		if t.role == manifest.RoleKernel || t.role == manifest.RoleInitramfs {
			out = append(out, stocked{"phase/" + t.role, io.NewSectionReader(t.file, t.off, t.size)})
		}
	}
	nodes := os.DirFS(p.seed.nodes)
	err := fs.WalkDir(nodes, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := fs.ReadFile(nodes, name)
		out = append(out, stocked{"phase/cache/" + name, io.NewSectionReader(bytes.NewReader(data), 0, int64(len(data)))})
		return err
	})
	return out, err
}

// room reports why a payload must not grow by so many bytes: the jump would not find its
// copies' place any more, or the target what it wants.
func (p *Payload) room(size, minRAM int64) error {
	total, free := p.meminfo("MemTotal"), p.meminfo("MemAvailable")
	words := func(n int64) string { return humanize.IBytes(uint64(n)) }
	if need := size + (kexecCopies-1)*(p.Size()+size) + unpackRoom(p.kernel) + seedSpare; need > free {
		return fmt.Errorf("serving %s from memory needs %s free, not %s", words(size), words(need), words(free))
	}
	if size > total/seedShare {
		return fmt.Errorf("%s are more than 1/%d of the memory", words(size), seedShare)
	}
	if minRAM > 0 && enoughMemory(minRAM+(size+seedSpare)>>20, total) != nil {
		return fmt.Errorf("the release wants its %d MiB for itself", minRAM)
	}
	return nil
}
