// Package authenticode signs EFI programs for Secure Boot, and checks such signatures: a PKCS #7
// message (RFC 2315) in Microsoft's Authenticode form at the end of a PE file. imagebuild signs a UKI
// with it, which firmware checks; signer signs the kernel of a release, which the boot kernel checks
// at kexec.
//
// Start at [Signer]. Signatures are RSA PKCS #1 v1.5 with SHA-256 and without a time: the same input
// and the same key give the same bytes. [Read] accepts only what [Signer.Sign] writes. [CheckKernel]
// accepts what Linux accepts. Neither looks at the dates of a certificate, as firmware and Linux do
// not.
package authenticode
