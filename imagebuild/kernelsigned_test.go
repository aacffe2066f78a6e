package imagebuild

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestFormatAKernelThatDoesNotCheckSignaturesIsAWarning(t *testing.T) {
	dir := t.TempDir()
	k := &Kernel{Version: "6.1", dir: dir, Arch: "x86_64"}
	if got := k.secureBootWarning(); got != "" {
		t.Errorf("without a configuration: %q", got)
	}
	if err := os.Mkdir(filepath.Join(dir, "boot"), 0o755); err != nil {
		t.Fatal(err)
	}
	debian := []string{
		"CONFIG_KEXEC_SIG=y", "CONFIG_KEXEC_BZIMAGE_VERIFY_SIG=y", "CONFIG_INTEGRITY_PLATFORM_KEYRING=y",
		"CONFIG_LOAD_UEFI_KEYS=y", "CONFIG_LOCK_DOWN_IN_EFI_SECURE_BOOT=y",
	}
	for i := range len(debian) + 1 {
		lines, want := strings.Join(debian, "\n")+"\n", ""
		if i < len(debian) {
			name, _, _ := strings.Cut(debian[i], "=")
			lines, want = strings.Replace(lines, debian[i], "# "+name+" is not set", 1), name
		}
		if err := os.WriteFile(filepath.Join(dir, "boot", "config-6.1"), []byte(lines), 0o600); err != nil {
			t.Fatal(err)
		}
		if got := k.secureBootWarning(); !strings.Contains(got, want) || (got == "") != (want == "") {
			t.Errorf("%q: %q, want %q", lines, got, want)
		}
	}
}
