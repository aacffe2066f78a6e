package bootfile

import (
	"runtime"
	"strings"
)

// otherNames maps other names of the architectures (Debian, Go, Windows, the kernel), and ours in
// capitals, to ours.
var otherNames = map[string]string{
	X86_64: X86_64, ARM64: ARM64,
	"amd64": X86_64, "x64": X86_64, "x86-64": X86_64, "x86": X86_64, "i386": X86_64, "i686": X86_64, "intel": X86_64,
	"aarch64": ARM64, "arm64v8": ARM64, "armv8": ARM64, "arm": ARM64, "armhf": ARM64,
}

// HostArch returns the architecture of this machine as releases name it.
func HostArch() string {
	if runtime.GOARCH == "amd64" {
		return X86_64
	}
	return runtime.GOARCH
}

// CheckArch refuses an unknown architecture. The error wraps fs.ErrInvalid and names the known ones.
func CheckArch(name string) error {
	if name == X86_64 || name == ARM64 {
		return nil
	}
	if meant, ok := otherNames[strings.ToLower(name)]; ok {
		return invalid("architecture %.40q: unknown; did you mean %s?", name, meant)
	}
	return invalid("architecture %.40q: unknown; use %s or %s", name, X86_64, ARM64)
}
