package bootfile

import "strings"

// otherNames are what others call our architectures: Debian, Go, Windows, the kernel.
var otherNames = map[string]string{
	"amd64": X86_64, "x64": X86_64, "x86-64": X86_64, "x86": X86_64, "i386": X86_64, "i686": X86_64, "intel": X86_64,
	"aarch64": ARM64, "arm64v8": ARM64, "armv8": ARM64, "arm": ARM64, "armhf": ARM64,
}

// CheckArch refuses an architecture of which there are no machines to boot. The error
// wraps fs.ErrInvalid and names those that there are.
func CheckArch(name string) error {
	if name == X86_64 || name == ARM64 {
		return nil
	}
	if meant, ok := otherNames[strings.ToLower(name)]; ok {
		return invalid("architecture %.40q: unknown; did you mean %s?", name, meant)
	}
	if lower := strings.ToLower(name); lower == X86_64 || lower == ARM64 {
		return invalid("architecture %.40q: unknown; did you mean %s?", name, lower)
	}
	return invalid("architecture %.40q: unknown; it is %s or %s", name, X86_64, ARM64)
}
