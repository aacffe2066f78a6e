package publisher

import (
	"debug/pe"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"github.com/phaseboot/phaseboot/internal/file"
)

// netbootPath is where the files of ServeOptions.Netboot are. It is no path of a gateway.
const netbootPath = "/netboot/"

// maxUKICmdline bounds the command line in a UKI, in bytes.
const maxUKICmdline = 4 << 10

// A netboot serves the EFI programs of a folder to firmware (UEFI HTTP boot) and to iPXE, and for
// each NAME.efi a script NAME.ipxe. Only files whose names end with .efi or .ipxe are served, so
// that a key in the folder is not.
type netboot struct {
	dir  string
	only string // the one name that is served, without its suffix; "" for all
	log  *slog.Logger
}

var netbootName = regexp.MustCompile(`^([A-Za-z0-9][A-Za-z0-9._-]{0,99})\.(efi|ipxe)$`)

// newNetboot returns the handler for a folder, or for one EFI program. The files are opened for
// each request: a program that is replaced is served at once.
func newNetboot(path string, log *slog.Logger) (*netboot, error) {
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("--netboot %s: %w; phase-image uki makes an EFI program", path, fs.ErrNotExist)
	}
	if err != nil {
		return nil, fmt.Errorf("--netboot: %w", err)
	}
	if info.IsDir() {
		return &netboot{dir: path, log: log}, nil
	}
	name := netbootName.FindStringSubmatch(filepath.Base(path))
	if name == nil || name[2] != "efi" || !info.Mode().IsRegular() {
		return nil, fmt.Errorf("--netboot %s: name a folder, or a file NAME.efi (%w)", path, fs.ErrInvalid)
	}
	return &netboot{dir: filepath.Dir(path), only: name[1], log: log}, nil
}

// ServeHTTP serves GET and HEAD with the length and the type that firmware needs: without a length
// it does not load a program, and the type or the suffix tells it that it is one.
func (n *netboot) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		w.Header().Set("Allow", "GET, HEAD")
		http.Error(w, "method not allowed: use GET or HEAD", http.StatusMethodNotAllowed)
		return
	}
	name := netbootName.FindStringSubmatch(strings.TrimPrefix(r.URL.Path, netbootPath))
	if name == nil || n.only != "" && name[1] != n.only {
		http.Error(w, "not found here", http.StatusNotFound)
		return
	}
	head := w.Header()
	head.Set("X-Content-Type-Options", "nosniff")
	head.Set("Cache-Control", "no-cache") // the next image has the same name
	head.Set("Content-Type", map[string]string{"efi": "application/efi", "ipxe": "text/plain; charset=us-ascii"}[name[2]])
	err := n.serveFile(w, r, name[0])
	if errors.Is(err, fs.ErrNotExist) && name[2] == "ipxe" {
		err = n.serveScript(w, r, name[1])
	}
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, file.ErrKind):
		http.Error(w, "not found here", http.StatusNotFound)
	case err != nil:
		n.log.Warn("netboot", "file", name[0], "cause", err)
		http.Error(w, "the file cannot be served; the log of the publisher has the reason", http.StatusInternalServerError)
	}
}

func (n *netboot) serveFile(w http.ResponseWriter, r *http.Request, name string) error {
	f, err := file.OpenInRoot(n.dir, name)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err == nil {
		http.ServeContent(w, r, "", info.ModTime(), f)
	}
	return err
}

// serveScript serves an iPXE script that starts NAME.efi. iPXE always passes a command line, which a
// UKI prefers to its own without Secure Boot. So the script repeats the UKI's own; its first word is
// the name, whose dot makes the kernel pass over it.
func (n *netboot) serveScript(w http.ResponseWriter, r *http.Request, name string) error {
	f, err := file.OpenInRoot(n.dir, name+".efi")
	if err != nil {
		return err
	}
	defer f.Close()
	cmdline, err := ukiCmdline(f)
	if err != nil {
		return err
	}
	script := fmt.Sprintf("#!ipxe\nchain --name uki.efi %s.efi %s\n", name, cmdline)
	http.ServeContent(w, r, "", time.Time{}, strings.NewReader(script))
	return nil
}

// iPXEWords are texts that an iPXE script would interpret.
var iPXEWords = regexp.MustCompile(`\$\{|["'\\#]|(^| )(&&|\|\|)( |$)|[^ -~]`)

// ukiCmdline returns the command line in a UKI, "" for another EFI program.
func ukiCmdline(r io.ReaderAt) (string, error) {
	program, err := pe.NewFile(r)
	if err != nil {
		return "", fmt.Errorf("not an EFI program: %w", err)
	}
	section := program.Section(".cmdline")
	if section == nil {
		return "", nil
	}
	text := make([]byte, min(section.VirtualSize, section.Size, maxUKICmdline))
	if _, err := section.ReadAt(text, 0); err != nil {
		return "", err
	}
	if bad := iPXEWords.FindString(string(text)); bad != "" {
		return "", fmt.Errorf("command line: %q means something else in an iPXE script; write the script beside the program", bad)
	}
	return string(text), nil
}
