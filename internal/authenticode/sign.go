package authenticode

import (
	"bytes"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"fmt"
	"io"
)

// A Signer is the key and the certificate with which EFI programs are signed. The key is RSA.
type Signer struct {
	Key         crypto.Signer
	Certificate *x509.Certificate
	// Made is the signature that another copy of the program has at its end, as it stands in the file. Sign then
	// adds it and needs no Key. It fits only the same program.
	Made []byte
}

// Fields of WIN_CERTIFICATE, the header of a signature (UEFI 2.10, 32.2.4).
const (
	winCertificate = 8
	winRevision    = 0x0200
	winPKCS7       = 0x0002
	maxSignature   = 64 << 10
)

// Sign returns an EFI program with a signature at its end. It takes over program, which has no
// signature.
func (s *Signer) Sign(program []byte) ([]byte, error) {
	program = append(program, make([]byte, -len(program)&7)...)
	r := bytes.NewReader(program)
	p, err := readProgram(r, r.Size())
	switch {
	case err != nil:
		return nil, err
	case p.signed():
		return nil, malformed("signed already")
	}
	signature := s.Made
	if signature == nil {
		if signature, err = s.signature(p, r); err != nil {
			return nil, err
		}
	}
	dir := program[p.directory():]
	little.PutUint32(dir, uint32(len(program)))
	little.PutUint32(dir[4:], uint32(len(signature)))
	program = append(program, signature...)
	if little.Uint32(program[p.checksum():]) == 0 {
		return program, nil
	}
	return program, SetChecksum(program, p.checksum())
}

// signature makes the signature of a program.
func (s *Signer) signature(p *program, r io.ReaderAt) ([]byte, error) {
	sum, err := p.sum(r)
	if err != nil {
		return nil, err
	}
	signed, err := signPKCS7(programDigest(sum), nil, s.Certificate, s.sign)
	if err != nil {
		return nil, err
	}
	return winSignature(signed), nil
}

// SignDetached returns the DER of a SignedData over a message that is not in it, without attributes:
// the form of a firmware variable.
func (s *Signer) SignDetached(message []byte) ([]byte, error) {
	return signPKCS7(nil, message, s.Certificate, s.sign)
}

// sign signs with RSA PKCS #1 v1.5 and SHA-256, the one scheme that all firmware knows. The same
// message gives the same signature.
func (s *Signer) sign(message []byte) ([]byte, error) {
	sum := sha256.Sum256(message)
	sig, err := s.Key.Sign(rand.Reader, sum[:], crypto.SHA256)
	if err != nil {
		return nil, err
	}
	public, ok := s.Certificate.PublicKey.(*rsa.PublicKey)
	if !ok || rsa.VerifyPKCS1v15(public, crypto.SHA256, sum[:], sig) != nil {
		return nil, fmt.Errorf("signing key: its signature is not RSA PKCS #1 v1.5 with SHA-256 by the key of the certificate; firmware knows no other: use such a key")
	}
	return sig, nil
}

// signPKCS7 returns a SignedData of one signer. content is the DER of a SpcIndirectDataContent; if it
// is nil, the signature is over detached.
func signPKCS7(content, detached []byte, cert *x509.Certificate, sign func(message []byte) ([]byte, error)) ([]byte, error) {
	s := signerInfo{Version: 1, Issuer: issuerAndSerial{asn1.RawValue{FullBytes: cert.RawIssuer}, cert.SerialNumber}, Digest: algSHA256, Encryption: algRSA}
	inner, message := contentInfo{Type: oidData}, detached
	if content != nil {
		inner = contentInfo{oidIndirect, wrap(asn1.ClassContextSpecific, 0, content)}
		attributes := signerAttributes(content)
		s.Attributes = wrap(asn1.ClassContextSpecific, 0, attributes)
		message = der(wrap(asn1.ClassUniversal, asn1.TagSet, attributes))
	}
	var err error
	if s.Signature, err = sign(message); err != nil {
		return nil, err
	}
	return der(signedData{1, []pkix.AlgorithmIdentifier{algSHA256}, inner, wrap(asn1.ClassContextSpecific, 0, cert.Raw), []signerInfo{s}}), nil
}

// winSignature encodes a signature of an EFI program, padded to 8 bytes.
func winSignature(signed []byte) []byte {
	body := der(contentInfo{oidSignedData, wrap(asn1.ClassContextSpecific, 0, signed)})
	out := little.AppendUint32(nil, uint32(winCertificate+len(body)))
	out = little.AppendUint16(out, winRevision)
	out = append(little.AppendUint16(out, winPKCS7), body...)
	return append(out, make([]byte, -len(out)&7)...)
}

// readSignature reads the one signature of a program. It returns the SignedData and all bytes of the
// signature. Linux refuses a second signature, and padding of more than 7 bytes.
func (p *program) readSignature(r io.ReaderAt) (*signedData, []byte, error) {
	if p.sigLength <= winCertificate || p.sigLength > maxSignature {
		return nil, nil, malformed("signature of %d bytes", p.sigLength)
	}
	data := make([]byte, p.sigLength)
	if n, err := r.ReadAt(data, p.start); n < len(data) {
		return nil, nil, err
	}
	length := int64(little.Uint32(data))
	if length < winCertificate || length > p.sigLength || p.sigLength-length > 7 {
		return nil, nil, malformed("signature of %d of %d bytes; there must be one", length, p.sigLength)
	}
	if little.Uint16(data[4:]) != winRevision || little.Uint16(data[6:]) != winPKCS7 {
		return nil, nil, malformed("signature is not PKCS #7")
	}
	var info contentInfo
	var s signedData
	if _, err := asn1.Unmarshal(data[winCertificate:length], &info); err != nil {
		return nil, nil, malformed("signature: %v", err)
	}
	if _, err := asn1.Unmarshal(info.Content.Bytes, &s); err != nil || len(s.Signers) != 1 || !info.Type.Equal(oidSignedData) {
		return nil, nil, malformed("signature: %d signers, want 1 (%v)", len(s.Signers), err)
	}
	return &s, data, nil
}

// Read checks the signature that Sign wrote with the certificate in it. It returns the certificate, nil
// for a program without a signature, and the size of the program without the signature. It refuses a
// signature that does not encode back to the same bytes. Whether the certificate is trusted is up to
// the caller.
func Read(r io.ReaderAt, size int64) (*x509.Certificate, int64, error) {
	p, err := readProgram(r, size)
	if err != nil || !p.signed() {
		return nil, size, err
	}
	s, data, err := p.readSignature(r)
	if err != nil {
		return nil, 0, err
	}
	cert, err := x509.ParseCertificate(s.Certificates.Bytes)
	if err != nil {
		return nil, 0, malformed("signature: %v", err)
	}
	sum, err := p.sum(r)
	if err != nil {
		return nil, 0, err
	}
	again, err := signPKCS7(programDigest(sum), nil, cert, func(message []byte) ([]byte, error) {
		is := s.Signers[0].Signature
		if err := cert.CheckSignature(x509.SHA256WithRSA, message, is); err != nil {
			return nil, malformed("signature of %.80q: wrong, of another program, or not in the form that phase-image writes", cert.Subject)
		}
		return is, nil
	})
	if err == nil && (p.start%8 != 0 || !bytes.Equal(winSignature(again), data)) {
		err = malformed("signature: not in the form that phase-image writes")
	}
	return cert, p.start, err
}
