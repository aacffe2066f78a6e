package imagebuild

import (
	"bytes"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/binary"
	"io"
	"math/big"
	"unicode/utf16"
)

// Object identifiers of PKCS #7 (RFC 2315) and of Microsoft's Authenticode format.
var (
	oidData        = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 7, 1}
	oidSignedData  = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 7, 2}
	oidContentType = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 9, 3}
	oidDigest      = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 9, 4}
	oidRSA         = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 1}
	oidSHA256      = asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 2, 1}
	oidIndirect    = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 311, 2, 1, 4}
	oidImage       = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 311, 2, 1, 15}

	algSHA256 = pkix.AlgorithmIdentifier{Algorithm: oidSHA256, Parameters: asn1.NullRawValue}
	algRSA    = pkix.AlgorithmIdentifier{Algorithm: oidRSA, Parameters: asn1.NullRawValue}
)

type signedData struct {
	Version     int
	Digests     []pkix.AlgorithmIdentifier `asn1:"set"`
	Content     contentInfo
	Certificate asn1.RawValue
	Signers     []signerInfo `asn1:"set"`
}

type contentInfo struct {
	Type    asn1.ObjectIdentifier
	Content asn1.RawValue `asn1:"optional"`
}

type signerInfo struct {
	Version    int
	Issuer     issuerAndSerial
	Digest     pkix.AlgorithmIdentifier
	Attributes asn1.RawValue `asn1:"optional"`
	Encryption pkix.AlgorithmIdentifier
	Signature  []byte
}

type issuerAndSerial struct {
	Name   asn1.RawValue
	Serial *big.Int
}

type attribute struct {
	Type   asn1.ObjectIdentifier
	Values asn1.RawValue
}

// indirectData is SpcIndirectDataContent: the digest of an EFI program.
type indirectData struct {
	Data   imageData
	Digest digestInfo
}

type imageData struct {
	Type  asn1.ObjectIdentifier
	Value asn1.RawValue
}

type digestInfo struct {
	Algorithm pkix.AlgorithmIdentifier
	Digest    []byte
}

// wrap encloses DER in a constructed value.
func wrap(class, tag int, parts ...[]byte) asn1.RawValue {
	return asn1.RawValue{Class: class, Tag: tag, IsCompound: true, Bytes: bytes.Join(parts, nil)}
}

// der encodes a value. The types above can be encoded whatever they hold.
func der(v any) []byte {
	data, err := asn1.Marshal(v)
	if err != nil {
		panic("imagebuild: " + err.Error()) // cannot happen
	}
	return data
}

// imageDigest returns the SpcIndirectDataContent of a program's digest.
func imageDigest(sum []byte) []byte {
	var text []byte
	for _, u := range utf16.Encode([]rune("<<<Obsolete>>>")) {
		text = binary.BigEndian.AppendUint16(text, u)
	}
	file := wrap(asn1.ClassContextSpecific, 2, der(asn1.RawValue{Class: asn1.ClassContextSpecific, Tag: 0, Bytes: text}))
	value := wrap(asn1.ClassUniversal, asn1.TagSequence, der(asn1.BitString{}), der(wrap(asn1.ClassContextSpecific, 0, der(file))))
	return der(indirectData{imageData{oidImage, value}, digestInfo{algSHA256, sum}})
}

// signerAttributes returns the attributes that are signed: the type of the content, and its digest
// without its outer tag and length. There is no time, so that the same input gives the same bytes.
func signerAttributes(content []byte) []byte {
	var outer asn1.RawValue
	if _, err := asn1.Unmarshal(content, &outer); err != nil {
		panic("imagebuild: " + err.Error()) // cannot happen: der made it
	}
	sum := sha256.Sum256(outer.Bytes)
	set := func(v any) asn1.RawValue { return wrap(asn1.ClassUniversal, asn1.TagSet, der(v)) }
	return append(der(attribute{oidContentType, set(oidIndirect)}), der(attribute{oidDigest, set(sum[:])})...)
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

// signRSA signs with RSA PKCS #1 v1.5 and SHA-256, the one scheme that all firmware knows. The same
// message gives the same signature.
func signRSA(key *rsa.PrivateKey) func([]byte) ([]byte, error) {
	return func(message []byte) ([]byte, error) {
		sum := sha256.Sum256(message)
		return rsa.SignPKCS1v15(rand.Reader, key, crypto.SHA256, sum[:])
	}
}

// imageSum returns the digest of an EFI program without its checksum, its certificate directory and
// its certificates, as firmware computes it: header and sections, then the rest after as many bytes
// as those have. size is without the certificates.
func (h *peHeader) imageSum(r io.ReaderAt, size int64) ([]byte, error) {
	sum, certs := sha256.New(), h.certificatesAt()
	sum.Write(h.raw[:h.checksumAt()])
	sum.Write(h.raw[h.checksumAt()+4 : certs])
	sum.Write(h.raw[certs+8:])
	hashed := int64(len(h.raw))
	for _, s := range h.table {
		if _, err := io.Copy(sum, io.NewSectionReader(r, int64(s.PointerToRawData), int64(s.SizeOfRawData))); err != nil {
			return nil, err
		}
		hashed += int64(s.SizeOfRawData)
	}
	_, err := io.Copy(sum, io.NewSectionReader(r, hashed, size-hashed))
	return sum.Sum(nil), err
}

// certificatesAt returns the offset of the data directory of certificates.
func (h *peHeader) certificatesAt() int {
	return h.at + 4 + binary.Size(h.file) + 112 + 8*dirCertificates
}

// Fields of WIN_CERTIFICATE, the header of a signature (UEFI 2.10, 32.2.4).
const (
	winCertificate = 8
	winRevision    = 0x0200
	winPKCS7       = 0x0002
	maxSignature   = 64 << 10
)

// winSignature encodes a signature of an EFI program, padded to 8 bytes.
func winSignature(signed []byte) []byte {
	body := der(contentInfo{oidSignedData, wrap(asn1.ClassContextSpecific, 0, signed)})
	out := binary.LittleEndian.AppendUint32(nil, uint32(winCertificate+len(body)))
	out = binary.LittleEndian.AppendUint16(out, winRevision)
	out = append(binary.LittleEndian.AppendUint16(out, winPKCS7), body...)
	return append(out, make([]byte, -len(out)&7)...)
}

// A Signing is the key and the certificate with which EFI programs are signed for Secure Boot.
type Signing struct {
	Key         *rsa.PrivateKey
	Certificate *x509.Certificate
}

// sign returns an EFI program with a signature at its end. The program has none.
func (s *Signing) sign(program []byte) ([]byte, error) {
	size := align(int64(len(program)), 8)
	r := bytes.NewReader(append(program, make([]byte, size-int64(len(program)))...))
	h, err := readPEHeader(r, size)
	if err != nil {
		return nil, err
	}
	sum, err := h.imageSum(r, size)
	if err != nil {
		return nil, err
	}
	signed, err := signPKCS7(imageDigest(sum), nil, s.Certificate, signRSA(s.Key))
	if err != nil {
		return nil, err
	}
	out := make([]byte, size, size+maxSignature)
	copy(out, program)
	out = append(out, winSignature(signed)...)
	binary.LittleEndian.PutUint32(out[h.certificatesAt():], uint32(size))
	binary.LittleEndian.PutUint32(out[h.certificatesAt()+4:], uint32(int64(len(out))-size))
	return out, h.setChecksum(out)
}

// readSignature reads the signature that sign wrote at the end of a program of size bytes, and checks
// it with the certificate in it. It refuses one that does not encode back to the same bytes.
func (h *peHeader) readSignature(r io.ReaderAt, start, size int64) (*x509.Certificate, error) {
	if size <= start+winCertificate || size-start > maxSignature {
		return nil, badPE("signature of %d bytes", size-start)
	}
	data := make([]byte, size-start)
	if err := readFull(r, data, start); err != nil {
		return nil, err
	}
	length := int(binary.LittleEndian.Uint32(data))
	if length < winCertificate || length > len(data) {
		return nil, badPE("signature of %d of %d bytes", length, len(data))
	}
	var info contentInfo
	var s signedData
	if _, err := asn1.Unmarshal(data[winCertificate:length], &info); err != nil {
		return nil, badPE("signature: %v", err)
	}
	if _, err := asn1.Unmarshal(info.Content.Bytes, &s); err != nil || len(s.Signers) != 1 {
		return nil, badPE("signature: %d signers, want 1 (%v)", len(s.Signers), err)
	}
	cert, err := x509.ParseCertificate(s.Certificate.Bytes)
	if err != nil {
		return nil, badPE("signature: %v", err)
	}
	sum, err := h.imageSum(r, start)
	if err != nil {
		return nil, err
	}
	again, err := signPKCS7(imageDigest(sum), nil, cert, func(message []byte) ([]byte, error) {
		is := s.Signers[0].Signature
		if err := cert.CheckSignature(x509.SHA256WithRSA, message, is); err != nil {
			return nil, badPE("signature of %.80q: wrong, or of another program", cert.Subject)
		}
		return is, nil
	})
	if err == nil && !bytes.Equal(winSignature(again), data) {
		err = badPE("signature: not in the form that phase-image writes")
	}
	return cert, err
}
