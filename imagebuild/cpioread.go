package imagebuild

import (
	"bufio"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"

	"github.com/phaseboot/phaseboot/cas"
)

// Limits for reading an initramfs.
const (
	maxRecords    = 20_000
	maxRecordName = 1024    // bytes
	maxUnpacked   = 1 << 30 // bytes of the whole archive
	cpioHeader    = 110
	cpioTrailer   = "TRAILER!!!"
)

// File types in the mode of a record (stat(2)).
const (
	modeType   = 0o170000
	modeDir    = 0o040000
	modeFile   = 0o100000
	modeLink   = 0o120000
	modeDevice = 0o020000 // character device
)

// A cpioRecord is one member of an archive. body is valid until the next record is read.
type cpioRecord struct {
	name              string
	mode, links, size uint32
	body              io.Reader
}

func badArchive(format string, args ...any) error {
	return fmt.Errorf("archive: %s: %w", fmt.Sprintf(format, args...), cas.ErrCorrupt)
}

// readArchive reads one cpio archive as archive.writeTo writes it, and calls visit for each
// record. The kernel accepts more: several archives, names through symbolic links, hard
// links, repeated names. Each of these could replace a file that was already visited, so
// each is an error. It reads a stream and keeps only the names of folders in memory.
func readArchive(r io.Reader, visit func(cpioRecord) error) error {
	a := &archiveReader{r: bufio.NewReader(io.LimitReader(r, maxUnpacked+1)), dirs: map[string]bool{".": true}}
	for range maxRecords {
		record, err := a.next()
		if err != nil {
			return err
		}
		if record.name == cpioTrailer {
			return a.end()
		}
		if err := visit(record); err != nil {
			return err
		}
		if err := a.skip(record.body, int64(record.size)); err != nil {
			return err
		}
	}
	return badArchive("more than %d files", maxRecords)
}

type archiveReader struct {
	r    *bufio.Reader
	read int64
	last string          // name of the previous record
	dirs map[string]bool // folders read so far
}

// next reads a header and a name.
func (a *archiveReader) next() (cpioRecord, error) {
	var head [cpioHeader]byte
	if err := a.full(head[:]); err != nil {
		return cpioRecord{}, err
	}
	var fields [13]uint32
	var raw [52]byte
	if _, err := hex.Decode(raw[:], head[6:]); err != nil || string(head[:6]) != "070701" {
		return cpioRecord{}, badArchive("invalid header after %.80q", a.last)
	}
	for i := range fields {
		fields[i] = binary.BigEndian.Uint32(raw[4*i:])
	}
	length := fields[11]
	if length < 2 || length > maxRecordName {
		return cpioRecord{}, badArchive("name of %d bytes after %.80q", length, a.last)
	}
	name := make([]byte, length)
	if err := errors.Join(a.full(name), a.pad(cpioHeader+int64(length))); err != nil {
		return cpioRecord{}, err
	}
	c := cpioRecord{name: string(name[:length-1]), mode: fields[1], links: fields[4], size: fields[6]}
	if name[length-1] != 0 {
		return c, badArchive("name %.80q: no NUL at its end", name)
	}
	c.body = io.LimitReader(a.r, int64(c.size))
	return c, a.check(c)
}

// check refuses a record that the kernel would unpack under another name, or that a later
// record could replace.
func (a *archiveReader) check(c cpioRecord) error {
	if c.name == cpioTrailer {
		if c.size != 0 {
			return badArchive("trailer with a body")
		}
		return nil
	}
	printable := !strings.ContainsFunc(c.name, func(r rune) bool { return r < ' ' || r > '~' })
	switch {
	case !printable || c.name == "." || c.name[0] == '/' || c.name == ".." || strings.HasPrefix(c.name, "../") || path.Clean(c.name) != c.name:
		return badArchive("name %.80q: not in canonical form", c.name)
	case c.name <= a.last:
		return badArchive("name %.80q: repeated, or not in sorted order", c.name)
	case !a.dirs[path.Dir(c.name)]:
		return badArchive("name %.80q: its folder is not in the archive", c.name)
	}
	a.last = c.name
	return a.checkKind(c)
}

func (a *archiveReader) checkKind(c cpioRecord) error {
	kind := c.mode & modeType
	switch {
	case kind == modeFile && c.links > 1:
		return badArchive("file %.80q: a hard link", c.name)
	case kind == modeFile:
		return nil
	case kind == modeLink && c.size > 0 && c.size < 4096:
		return nil
	case kind == modeDir && c.size == 0:
		a.dirs[c.name] = true
		return nil
	case kind == modeDevice && c.size == 0:
		return nil
	}
	return badArchive("file %.80q: mode %o with %d bytes is not allowed", c.name, c.mode, c.size)
}

// skip reads the rest of a body and its padding.
func (a *archiveReader) skip(body io.Reader, size int64) error {
	left := body.(*io.LimitedReader)
	if _, err := io.Copy(io.Discard, body); err != nil {
		return err
	}
	if left.N > 0 {
		return a.short(io.ErrUnexpectedEOF)
	}
	a.read += size
	return a.pad(size)
}

// pad reads the zeros that pad n bytes to a multiple of four.
func (a *archiveReader) pad(n int64) error {
	var zeros [3]byte
	b := zeros[:-n&3]
	if err := a.full(b); err != nil {
		return err
	}
	if !allZero(b) {
		return badArchive("padding is not zero after %.80q", a.last)
	}
	return nil
}

// end reads the zeros that pad the archive to a block of 512 bytes. More bytes are an
// error, because the kernel would unpack them as another archive.
func (a *archiveReader) end() error {
	rest, err := io.ReadAll(io.LimitReader(a.r, sector))
	if err != nil {
		return err
	}
	if len(rest) == sector || !allZero(rest) {
		return badArchive("bytes after its end, which the kernel would unpack too")
	}
	return nil
}

// full fills b and counts its bytes.
func (a *archiveReader) full(b []byte) error {
	n, err := io.ReadFull(a.r, b)
	if a.read += int64(n); err == nil && a.read > maxUnpacked {
		return badArchive("more than %d bytes", maxUnpacked)
	}
	return a.short(err)
}

// short turns an early end of input into an error that names the last record.
func (a *archiveReader) short(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		if a.read >= maxUnpacked {
			return badArchive("more than %d bytes", maxUnpacked)
		}
		return badArchive("truncated after %.80q: no trailer", a.last)
	}
	return err
}
