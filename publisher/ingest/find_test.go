package ingest

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/manifest"
)

func TestArtifactsAreFoundByTheirBytes(t *testing.T) {
	const right, wrong, short = "the signed bytes", "some other bytes", "cut"
	sum := sha256.Sum256([]byte(right))
	for _, tt := range []struct {
		name, role string
		files      map[string]string
		want       string // "" for a refusal
		err        error  // of the refusal
	}{
		{"by role", "kernel", map[string]string{"kernel": right, "kernel-6.12": wrong}, "kernel", nil},
		{"by role with a folder", "dtb/board.dtb", map[string]string{"dtb/board.dtb": right, "board.dtb": right}, "dtb/board.dtb", nil},
		{"by the role's last element", "job/hello.wasm", map[string]string{"hello.wasm": right}, "hello.wasm", nil},
		{"by a suffix", "rootfs", map[string]string{"rootfs.squashfs": right, "kernel": wrong}, "rootfs.squashfs", nil},
		{"as Debian names kernels", "kernel", map[string]string{"vmlinuz-6.1": right, "initrd.img-6.1": wrong}, "vmlinuz-6.1", nil},
		{"in a folder of another name", "kernel", map[string]string{"boot/vmlinuz-6.1": right}, "boot/vmlinuz-6.1", nil},
		{"of two versions, the signed one", "kernel", map[string]string{"kernel-6.12": wrong, "kernel-6.13": right}, "kernel-6.13", nil},
		{"the signed bytes win over a name", "kernel", map[string]string{"kernel": wrong, "vmlinuz-6.1": right}, "vmlinuz-6.1", nil},
		{"and over a name with another length", "kernel", map[string]string{"kernel": short, "vmlinuz-6.1": right}, "vmlinuz-6.1", nil},
		{"a name alone is left to the comparison", "kernel", map[string]string{"kernel": wrong}, "kernel", nil},
		{"also beside others that do not fit", "kernel", map[string]string{"kernel": short, "vmlinuz-6.1": wrong}, "kernel", nil},
		{"not by its length alone", "kernel", map[string]string{"vmlinuz-6.1": wrong}, "", cas.ErrCorrupt},
		{"not when there is none", "kernel", map[string]string{"kernels": short}, "", fs.ErrNotExist},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			for name, text := range tt.files {
				path := filepath.Join(dir, name)
				if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o644)); err != nil {
					t.Fatal(err)
				}
			}
			all, err := listCandidates(t.Context(), dir)
			if err != nil {
				t.Fatal(err)
			}
			got, err := all.find(t.Context(), manifest.Artifact{Role: tt.role, Length: int64(len(right)), SHA256: hex.EncodeToString(sum[:])})
			if tt.want == "" {
				if !errors.Is(err, tt.err) {
					t.Fatalf("got %s, %v", got, err)
				}
				return
			}
			if err != nil || got != filepath.Join(dir, tt.want) {
				t.Fatalf("got %s, %v; want %s", got, err, tt.want)
			}
		})
	}
}
