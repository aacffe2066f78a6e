package netboot

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

// Path is where the files are, on a server and in a mirror. It is no path of a gateway.
const Path = "/netboot/"

// maxUKICmdline bounds the command line in a UKI, in bytes.
const maxUKICmdline = 4 << 10

// Files are the EFI programs of a folder, or one, for firmware (UEFI HTTP boot) and for iPXE, with a
// script NAME.ipxe for each NAME.efi. Only files whose names end with .efi or .ipxe are served, so
// that a key in the folder is not. It is an http.Handler of the requests below Path.
type Files struct {
	dir  string
	only string // the one name that is served, without its suffix; "" for all
	log  *slog.Logger
}

var fileName = regexp.MustCompile(`^([A-Za-z0-9][A-Za-z0-9._-]{0,99})\.(efi|ipxe)$`)

// Open returns the files of a folder, or one EFI program. They are opened for each request: a program
// that is replaced is served at once. log gets the reasons of status 500.
func Open(path string, log *slog.Logger) (*Files, error) {
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("--netboot %s: %w; phase-image uki makes an EFI program", path, fs.ErrNotExist)
	}
	if err != nil {
		return nil, fmt.Errorf("--netboot: %w", err)
	}
	if info.IsDir() {
		return &Files{dir: path, log: log}, nil
	}
	name := fileName.FindStringSubmatch(filepath.Base(path))
	if name == nil || name[2] != "efi" || !info.Mode().IsRegular() {
		return nil, fmt.Errorf("--netboot %s: name a folder, or a file NAME.efi (%w)", path, fs.ErrInvalid)
	}
	return &Files{dir: filepath.Dir(path), only: name[1], log: log}, nil
}

// ServeHTTP serves GET and HEAD with the length and the type that firmware needs: without a length
// it does not load a program, and the type or the suffix tells it that it is one.
func (f *Files) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		w.Header().Set("Allow", "GET, HEAD")
		http.Error(w, "method not allowed: use GET or HEAD", http.StatusMethodNotAllowed)
		return
	}
	name := fileName.FindStringSubmatch(strings.TrimPrefix(r.URL.Path, Path))
	if name == nil || f.only != "" && name[1] != f.only {
		http.Error(w, "not found here", http.StatusNotFound)
		return
	}
	head := w.Header()
	head.Set("X-Content-Type-Options", "nosniff")
	head.Set("Cache-Control", "no-cache") // the next image has the same name
	head.Set("Content-Type", map[string]string{"efi": "application/efi", "ipxe": "text/plain; charset=us-ascii"}[name[2]])
	err := f.serveFile(w, r, name[0])
	if errors.Is(err, fs.ErrNotExist) && name[2] == "ipxe" {
		var script string
		if script, err = f.script(name[1]); err == nil {
			http.ServeContent(w, r, "", time.Time{}, strings.NewReader(script))
		}
	}
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, file.ErrKind):
		http.Error(w, "not found here", http.StatusNotFound)
	case err != nil:
		f.log.Warn("netboot", "file", name[0], "cause", err)
		http.Error(w, "the file cannot be served; the log of the publisher has the reason", http.StatusInternalServerError)
	}
}

func (f *Files) serveFile(w http.ResponseWriter, r *http.Request, name string) error {
	in, err := file.OpenInRoot(f.dir, name)
	if err != nil {
		return err
	}
	defer in.Close()
	info, err := in.Stat()
	if err == nil {
		http.ServeContent(w, r, "", info.ModTime(), in)
	}
	return err
}

// script returns an iPXE script that starts NAME.efi. iPXE always passes a command line, which a UKI
// prefers to its own without Secure Boot. So the script repeats the UKI's own; its first word is the
// name, whose dot makes the kernel pass over it.
func (f *Files) script(name string) (string, error) {
	program, err := file.OpenInRoot(f.dir, name+".efi")
	if err != nil {
		return "", err
	}
	defer program.Close()
	cmdline, err := ukiCmdline(program)
	return fmt.Sprintf("#!ipxe\nchain --name uki.efi %s.efi %s\n", name, cmdline), err
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
	size := min(section.VirtualSize, section.Size)
	if size > maxUKICmdline {
		return "", fmt.Errorf("command line of %d bytes: more than %d; write the script beside the program", size, maxUKICmdline)
	}
	text := make([]byte, size)
	if _, err := section.ReadAt(text, 0); err != nil {
		return "", err
	}
	if bad := iPXEWords.FindString(string(text)); bad != "" {
		return "", fmt.Errorf("command line: %q means something else in an iPXE script; write the script beside the program", bad)
	}
	return string(text), nil
}
