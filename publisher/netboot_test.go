package publisher

import (
	"bytes"
	"debug/pe"
	"encoding/binary"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/phaseboot/phaseboot/publisher/pubtest"
)

// efiProgram returns an EFI program with one section, which has the text of a command line.
func efiProgram(section, text string) []byte {
	var b bytes.Buffer
	dos := make([]byte, 64)
	copy(dos, "MZ")
	dos[60] = 64
	s := pe.SectionHeader32{VirtualSize: uint32(len(text)), VirtualAddress: 4096, SizeOfRawData: 512, PointerToRawData: 512}
	copy(s.Name[:], section)
	head := pe.FileHeader{Machine: pe.IMAGE_FILE_MACHINE_AMD64, NumberOfSections: 1, SizeOfOptionalHeader: 240}
	for _, part := range []any{dos, []byte("PE\x00\x00"), head, pe.OptionalHeader64{Magic: 0x20b, NumberOfRvaAndSizes: 16}, s} {
		_ = binary.Write(&b, binary.LittleEndian, part) // a buffer takes all
	}
	return append(append(b.Bytes(), make([]byte, 512-b.Len())...), append([]byte(text), make([]byte, 512-len(text))...)...)
}

// answer returns status, headers and body of a request to a daemon.
func answer(t *testing.T, method, url string) (*http.Response, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, nil)
	pubtest.Check(t, err)
	resp, err := http.DefaultClient.Do(req)
	pubtest.Check(t, err)
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	pubtest.Check(t, err)
	return resp, string(body)
}

func TestServeNetbootBesideTheGateway(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.Add(w.Sign(1, "v1", w.Release))
	program := efiProgram(".cmdline", "quiet phase.mode=local phase.mirror=http://192.0.2.80:8080/?a&b")
	w.Write("boot/uki-x86_64.efi", program)
	w.Write("boot/own.efi", program)
	w.Write("boot/own.ipxe", []byte("#!ipxe\nown\n"))
	w.Write("boot/other.efi", efiProgram(".text", "x"))
	w.Write("boot/shell.efi", efiProgram(".cmdline", "x || shell"))
	w.Write("boot/online.key", []byte("secret"))
	w.Write("secret.efi", program)
	pubtest.Check(t, errors.Join(os.Symlink("../secret.efi", w.Path("boot/link.efi")), os.Mkdir(w.Path("boot/folder.efi"), 0o755)))
	opts := w.serveOptions()
	opts.DHT, opts.Netboot = DHTOff, w.Path("boot")
	r, _ := w.serve(opts)
	base := r.HTTP[0] + "/netboot/"

	// firmware asks for the length first, and loads nothing without one
	resp, body := answer(t, http.MethodHead, base+"uki-x86_64.efi")
	if resp.StatusCode != http.StatusOK || resp.ContentLength != int64(len(program)) || resp.Header.Get("Content-Type") != "application/efi" || body != "" {
		t.Errorf("HEAD: %v, %d bytes", resp.Header, resp.ContentLength)
	}
	if resp, body = answer(t, http.MethodGet, base+"uki-x86_64.efi"); body != string(program) || resp.ContentLength != int64(len(program)) {
		t.Errorf("GET: %d bytes of %d", len(body), resp.ContentLength)
	}
	for path, want := range map[string]string{
		"uki-x86_64.ipxe": "#!ipxe\nchain --name uki.efi uki-x86_64.efi quiet phase.mode=local phase.mirror=http://192.0.2.80:8080/?a&b\n",
		"own.ipxe":        "#!ipxe\nown\n",
		"other.ipxe":      "#!ipxe\nchain --name uki.efi other.efi \n",
	} {
		if resp, body := answer(t, http.MethodGet, base+path); body != want || !strings.HasPrefix(resp.Header.Get("Content-Type"), "text/plain") {
			t.Errorf("%s: %q", path, body)
		}
	}
	for path, want := range map[string]int{
		"": 404, "online.key": 404, "link.efi": 500, "folder.efi": 404, "none.efi": 404, "none.ipxe": 404, "shell.ipxe": 500,
		"%2e%2e/secret.efi": 404, "boot/uki-x86_64.efi": 404, ".efi": 404,
	} {
		if resp, body := answer(t, http.MethodGet, base+path); resp.StatusCode != want || strings.Contains(body, w.Path("")) {
			t.Errorf("%q: %d %q, want %d", path, resp.StatusCode, body, want)
		}
	}
	if resp, _ := answer(t, http.MethodPost, base+"uki-x86_64.efi"); resp.StatusCode != http.StatusMethodNotAllowed {
		t.Errorf("POST: %d", resp.StatusCode)
	}
	if resp, _ := answer(t, http.MethodGet, r.HTTP[0]+"/ipfs/"+r.Pointer+"?format=raw"); resp.StatusCode != http.StatusOK {
		t.Errorf("the gateway: %d", resp.StatusCode)
	}

	// a program that is replaced is served at once
	w.Write("boot/uki-x86_64.efi", append(program, 1))
	if _, body := answer(t, http.MethodGet, base+"uki-x86_64.efi"); len(body) != len(program)+1 {
		t.Errorf("the new program: %d bytes", len(body))
	}
}

// A program counts in the rate like a block: otherwise a daemon would send twice as much as --rate says.
func TestNetbootHasTheRateOfTheGateway(t *testing.T) {
	dir := t.TempDir()
	pubtest.Check(t, os.WriteFile(filepath.Join(dir, "a.efi"), make([]byte, 1<<20), 0o600))
	synctest.Test(t, func(t *testing.T) {
		const rate = 1 << 18
		s := &server{ServeOptions: ServeOptions{Netboot: dir, DaemonOptions: DaemonOptions{Limits: Limits{Rate: rate}, Log: slog.New(slog.DiscardHandler)}}, meter: newMeter()}
		plain, _ := s.handlers()
		plain, err := s.withNetboot(plain)
		pubtest.Check(t, err)
		got := httptest.NewRecorder()
		plain.ServeHTTP(got, httptest.NewRequest(http.MethodGet, "/netboot/a.efi", nil))
		start := time.Now()
		pubtest.Check(t, s.rates.Wait(t.Context(), "192.0.2.1", rate))
		if waited := time.Since(start); got.Body.Len() != 1<<20 || waited < 900*time.Millisecond {
			t.Errorf("%d bytes were sent, and the next block waited only %v", got.Body.Len(), waited)
		}
	})
}
