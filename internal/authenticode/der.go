package authenticode

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/binary"
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
	Version      int
	Digests      []pkix.AlgorithmIdentifier `asn1:"set"`
	Content      contentInfo
	Certificates asn1.RawValue `asn1:"optional,tag:0"`
	Signers      []signerInfo  `asn1:"set"`
}

type contentInfo struct {
	Type    asn1.ObjectIdentifier
	Content asn1.RawValue `asn1:"optional"`
}

type signerInfo struct {
	Version    int
	Issuer     issuerAndSerial
	Digest     pkix.AlgorithmIdentifier
	Attributes asn1.RawValue `asn1:"optional,tag:0"`
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
		panic("authenticode: " + err.Error()) // cannot happen
	}
	return data
}

// programDigest returns the SpcIndirectDataContent of a program's digest.
func programDigest(sum []byte) []byte {
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
	set := func(v any) asn1.RawValue { return wrap(asn1.ClassUniversal, asn1.TagSet, der(v)) }
	return append(der(attribute{oidContentType, set(oidIndirect)}), der(attribute{oidDigest, set(contentSum(content))})...)
}

// contentSum returns the SHA-256 of DER without its outer tag and length, nil if it is not DER.
func contentSum(content []byte) []byte {
	var outer asn1.RawValue
	if _, err := asn1.Unmarshal(content, &outer); err != nil {
		return nil
	}
	sum := sha256.Sum256(outer.Bytes)
	return sum[:]
}
