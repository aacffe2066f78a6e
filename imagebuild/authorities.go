package imagebuild

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/phaseboot/phaseboot/cas"
)

// authoritiesPath is the file of the initramfs with the certificates of all authorities.
const authoritiesPath = "etc/ssl/certs/ca-certificates.crt"

// addCertificates adds the certificate authorities of https mirrors: Debian's, and those of
// Initramfs.Authorities. They add no trust to a release.
func (b *Builder) addCertificates(ctx context.Context, in Initramfs, a *archive) error {
	dir, err := b.packageFiles(ctx, "ca-certificates", in.Platform)
	if err != nil {
		return err
	}
	files, err := filepath.Glob(filepath.Join(dir, "usr/share/ca-certificates/mozilla/*.crt"))
	if err != nil || len(files) == 0 {
		return fmt.Errorf("package ca-certificates: no certificates found: %w", cas.ErrCorrupt)
	}
	slices.Sort(files)
	var bundle bytes.Buffer
	for _, name := range files {
		text, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		bundle.Write(text)
	}
	own, err := parseAuthorities(in.Authorities)
	if err != nil {
		return err
	}
	bundle.Write(own)
	a.file(authoritiesPath, bundle.Bytes(), 0o644)
	return nil
}

// parseAuthorities returns the certificates of a PEM text, without the text between them. It refuses
// everything that is not the certificate of an authority: a private key does not belong into an image,
// and the machine would not accept a server by its own certificate.
func parseAuthorities(text []byte) ([]byte, error) {
	var out bytes.Buffer
	for rest := text; ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		if block.Type != "CERTIFICATE" {
			return nil, optionsf("certificate authority: a PEM block of type %.40q; the file may contain certificates only", block.Type)
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, optionsf("certificate authority: %v", err)
		}
		if !c.IsCA {
			return nil, optionsf("certificate of %.80q: not an authority (CA:TRUE); name the certificate that has signed the server's", c.Subject.String())
		}
		if err := pem.Encode(&out, &pem.Block{Type: block.Type, Bytes: block.Bytes}); err != nil {
			return nil, err
		}
	}
	if out.Len() == 0 && len(text) > 0 {
		return nil, optionsf("certificate authority: no certificate in PEM found")
	}
	return out.Bytes(), nil
}
