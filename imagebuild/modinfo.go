package imagebuild

import (
	"bytes"
	"debug/elf"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/phaseboot/phaseboot/cas"
	"github.com/ulikunitz/xz"
)

// maxModule bounds an unpacked module, in bytes. The largest of Debian's has about 20 MiB.
const maxModule = 64 << 20

// readModule returns a kernel module and decompresses it if Debian compressed it. The
// initramfs is compressed as a whole: that is smaller, and the kernel needs no decompressor
// for modules.
func (k *Kernel) readModule(path string) ([]byte, error) {
	f, err := os.OpenInRoot(k.dir, path)
	if err != nil {
		return nil, fmt.Errorf("kernel %s: %w", k.Package, err)
	}
	defer f.Close()
	r, err := unpacked(f, filepath.Ext(path))
	if err != nil {
		return nil, fmt.Errorf("module %s: %w: %w", path, err, cas.ErrCorrupt)
	}
	data, err := io.ReadAll(io.LimitReader(r, maxModule+1))
	if err == nil && len(data) > maxModule {
		err = fmt.Errorf("more than %d bytes", maxModule)
	}
	if err != nil {
		return nil, fmt.Errorf("module %s: %w: %w", path, err, cas.ErrCorrupt)
	}
	return data, nil
}

func unpacked(r io.Reader, ext string) (io.Reader, error) {
	switch ext {
	case ".xz":
		return xz.NewReader(r)
	case ".zst":
		return zstd.NewReader(r, zstd.WithDecoderConcurrency(1))
	case ".gz":
		return gzip.NewReader(r)
	}
	return r, nil
}

// modinfo is the part of a module's ELF section .modinfo that we use.
type modinfo struct {
	depends  []string // modules whose symbols it uses
	softdep  []string // modules that should be loaded before it
	aliases  []string
	firmware []string // files below lib/firmware that it may ask for
	kernel   string   // version of the kernel that it was built for; empty: not known
}

func parseModinfo(data []byte) (modinfo, error) {
	var info modinfo
	file, err := elf.NewFile(bytes.NewReader(data))
	if err != nil {
		return info, fmt.Errorf("%w: %w", err, cas.ErrCorrupt)
	}
	section := file.Section(".modinfo")
	if section == nil {
		return info, fmt.Errorf("no section .modinfo: %w", cas.ErrCorrupt)
	}
	text, err := section.Data()
	if err != nil {
		return info, fmt.Errorf("%w: %w", err, cas.ErrCorrupt)
	}
	for _, entry := range strings.Split(string(text), "\x00") {
		key, value, _ := strings.Cut(entry, "=")
		switch key {
		case "depends":
			info.depends = append(info.depends, strings.FieldsFunc(value, func(r rune) bool { return r == ',' })...)
		case "softdep":
			info.softdep = append(info.softdep, softdepPre(value)...)
		case "vermagic":
			info.kernel, _, _ = strings.Cut(value, " ")
		case "alias":
			info.aliases = append(info.aliases, value)
		case "firmware":
			info.firmware = append(info.firmware, value)
		}
	}
	return info, nil
}

// softdepPre returns the names after "pre:" in a softdep (modprobe.d(5)).
func softdepPre(s string) []string {
	var pre []string
	in := false
	for _, word := range strings.Fields(s) {
		if strings.HasSuffix(word, ":") {
			in = word == "pre:"
		} else if in {
			pre = append(pre, word)
		}
	}
	return pre
}
