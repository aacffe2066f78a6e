package imagebuild

import (
	"bytes"
	"fmt"
	"strings"
)

// Options of a kernel that checks signatures at kexec under Secure Boot, against the certificates of
// the firmware. Of enforcing it needs one: without, it starts a kernel that nobody signed.
var (
	verifying = []string{"CONFIG_KEXEC_SIG", "CONFIG_INTEGRITY_PLATFORM_KEYRING", "CONFIG_LOAD_UEFI_KEYS"}
	enforcing = []string{
		"CONFIG_LOCK_DOWN_IN_EFI_SECURE_BOOT", "CONFIG_IMA_ARCH_POLICY", "CONFIG_KEXEC_SIG_FORCE",
		"CONFIG_LOCK_DOWN_KERNEL_FORCE_INTEGRITY", "CONFIG_LOCK_DOWN_KERNEL_FORCE_CONFIDENTIALITY",
	}
)

// verifier is the option that reads the signature of a kernel, by architecture.
var verifier = map[string]string{"x86_64": "CONFIG_KEXEC_BZIMAGE_VERIFY_SIG", "arm64": "CONFIG_KEXEC_IMAGE_VERIFY_SIG"}

// secureBootWarning warns about a kernel that, in a signed image, starts no release or any kernel. It is
// empty if the kernel does neither, or if its package has no configuration.
func (k *Kernel) secureBootWarning() string {
	text := k.config()
	if text == nil {
		return ""
	}
	has := func(option string) bool {
		return bytes.Contains(append([]byte("\n"), text...), []byte("\n"+option+"=y\n"))
	}
	enforces := false
	for _, option := range enforcing {
		enforces = enforces || has(option)
	}
	if !enforces {
		return fmt.Sprintf("warning: kernel %s: built with none of %s; under Secure Boot it starts a release whose kernel nobody signed: name another kernel with --kernel", k.Version, strings.Join(enforcing, ", "))
	}
	for _, option := range append([]string{verifier[k.Arch]}, verifying...) {
		if !has(option) {
			return fmt.Sprintf("warning: kernel %s: built without %s; under Secure Boot it starts no release: name another kernel with --kernel", k.Version, option)
		}
	}
	return ""
}
