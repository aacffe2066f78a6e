package authenticode

import (
	"bytes"
	"crypto/x509"
	"encoding/asn1"
	"io"

	"github.com/phaseboot/phaseboot/internal/refusal"
)

// Kinds of PE programs: firmware starts an EFI application, and no program of an unknown kind
// (UEFI 2.10, 2.1.3).
const (
	subsystemUnknown = 0
	subsystemEFI     = 10
)

// SignKernel replaces the signatures of a kernel with one that Linux accepts at kexec, and makes the
// kernel one that only kexec starts: it is marked as no EFI program, and the signature covers that mark.
// Otherwise the firmware, which knows the same key, would start the kernel with any initramfs beside
// it. It takes over kernel. The same key gives the same bytes, also for a kernel that it has signed.
func (s *Signer) SignKernel(kernel []byte) ([]byte, error) {
	p, err := readKernel(bytes.NewReader(kernel), int64(len(kernel)))
	if err != nil {
		return nil, err
	}
	kernel = kernel[:p.start]
	clear(kernel[p.directory() : p.directory()+dirSize])
	little.PutUint16(kernel[p.subsystem():], subsystemUnknown)
	return s.Sign(kernel)
}

// readKernel reads the headers of a kernel, all bytes of which a signature covers.
func readKernel(r io.ReaderAt, size int64) (*program, error) {
	p, err := readProgram(r, size)
	if err != nil {
		return nil, err
	}
	return p, p.covered()
}

// CheckKernel refuses a kernel that a boot kernel, locked down by Secure Boot, would not start by kexec,
// if cert is in the firmware's db: it has exactly one signature, of its own bytes, which leads to cert
// (Linux, crypto/asymmetric_keys/verify_pefile.c). It reports whether firmware with that certificate
// would start the kernel too.
func CheckKernel(r io.ReaderAt, size int64, cert *x509.Certificate) (firmware bool, err error) {
	p, err := readKernel(r, size)
	if err != nil {
		return false, err
	}
	if !p.signed() {
		return false, refusal.Invalid("the kernel has no signature")
	}
	s, _, err := p.readSignature(r)
	if err != nil {
		return false, err
	}
	sum, err := p.sum(r)
	if err != nil {
		return false, err
	}
	signer, err := s.check(sum, cert)
	if err != nil {
		return false, err
	}
	if !s.leads(signer, cert) {
		return false, refusal.Invalid("the kernel is signed by %.80q, issued by %.80q, and not by %.80q", signer.Subject, signer.Issuer, cert.Subject)
	}
	return little.Uint16(p.head[p.subsystem():]) == subsystemEFI, nil
}

// check returns the certificate of the signer, one of the message or known, and refuses a signature
// that is wrong or of another program than the one with this digest.
func (s *signedData) check(sum []byte, known *x509.Certificate) (*x509.Certificate, error) {
	var content indirectData
	if _, err := asn1.Unmarshal(s.Content.Content.Bytes, &content); err != nil || !s.Content.Type.Equal(oidIndirect) {
		return nil, malformed("signature: without the digest of a program (%v)", err)
	}
	if !content.Digest.Algorithm.Algorithm.Equal(oidSHA256) || !bytes.Equal(content.Digest.Digest, sum) {
		return nil, malformed("signature: of another program, or with another hash than SHA-256")
	}
	signer := s.signer(known)
	if signer == nil {
		return nil, malformed("signature: without the certificate of its signer")
	}
	i := s.Signers[0]
	if !i.signs(s.Content.Content.Bytes) {
		return nil, malformed("signature of %.80q: its attributes are not those of a program", signer.Subject)
	}
	message := der(wrap(asn1.ClassUniversal, asn1.TagSet, i.Attributes.Bytes))
	if err := signer.CheckSignature(x509.SHA256WithRSA, message, i.Signature); err != nil {
		return nil, malformed("signature of %.80q: %v", signer.Subject, err)
	}
	return signer, nil
}

// signs reports whether the signed attributes have the type and the digest of content.
func (i signerInfo) signs(content []byte) bool {
	found := map[string][]byte{}
	for rest := i.Attributes.Bytes; len(rest) > 0; {
		var a attribute
		var err error
		if rest, err = asn1.Unmarshal(rest, &a); err != nil {
			return false
		}
		found[a.Type.String()] = a.Values.Bytes
	}
	return bytes.Equal(found[oidContentType.String()], der(oidIndirect)) && bytes.Equal(found[oidDigest.String()], der(contentSum(content)))
}

// certificates returns the certificates of the message.
func (s *signedData) certificates() []*x509.Certificate {
	list, err := x509.ParseCertificates(s.Certificates.Bytes)
	if err != nil {
		return nil
	}
	return list
}

func (s *signedData) signer(known *x509.Certificate) *x509.Certificate {
	want := s.Signers[0].Issuer
	for _, c := range append(s.certificates(), known) {
		if c.SerialNumber.Cmp(want.Serial) == 0 && bytes.Equal(c.RawIssuer, want.Name.FullBytes) {
			return c
		}
	}
	return nil
}

// leads reports whether a certificate is the trusted one, or was issued by it, or by one of the message
// that leads to it. Linux asks for no purpose of a certificate.
func (s *signedData) leads(c, trusted *x509.Certificate) bool {
	list := s.certificates()
	for range len(list) + 1 {
		if bytes.Equal(c.Raw, trusted.Raw) || issued(trusted, c) {
			return true
		}
		next := -1
		for i, above := range list {
			if issued(above, c) && !bytes.Equal(above.Raw, c.Raw) {
				next = i
			}
		}
		if next < 0 {
			return false
		}
		c = list[next]
	}
	return false
}

func issued(above, c *x509.Certificate) bool {
	return bytes.Equal(c.RawIssuer, above.RawSubject) && above.CheckSignature(c.SignatureAlgorithm, c.RawTBSCertificate, c.Signature) == nil
}
