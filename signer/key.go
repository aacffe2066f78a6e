package signer

import (
	"context"
	"crypto"
	"crypto/ed25519"
	"errors"
	"fmt"
	"regexp"
	"strings"

	"github.com/sigstore/sigstore/pkg/signature"

	"github.com/phaseboot/phaseboot/manifest"
)

var (
	// ErrPassphrase says that a passphrase does not open its key.
	ErrPassphrase = errors.New("wrong passphrase")
	// ErrNoPassphrase says that a key needs a passphrase and there is nobody to ask.
	ErrNoPassphrase = errors.New("no passphrase")
)

// errPrivate is what a key answers that never leaves its agent or KMS.
var errPrivate = invalid("the private key does not leave its keeper; name a PEM file")

// A Key signs with Ed25519 (RFC 8032). The zero Key is of no use; see Load.
type Key struct {
	name    string
	signer  signature.Signer
	public  ed25519.PublicKey
	private ed25519.PrivateKey // nil when an agent or a KMS keeps it
}

// Name is the path or URI that the key was loaded from.
func (k Key) Name() string { return k.name }

// Signer signs TUF metadata; nil when only the public half is here.
func (k Key) Signer() signature.Signer { return k.signer }

// Public is the public half.
func (k Key) Public() ed25519.PublicKey { return k.public }

// Private is the private half, for uses that are not TUF signatures (IPNS
// records). Only PEM keys have one; the others answer an error that wraps
// fs.ErrInvalid.
func (k Key) Private() (ed25519.PrivateKey, error) {
	if k.private == nil {
		return nil, fmt.Errorf("key %s: %w", k.name, errPrivate)
	}
	return k.private, nil
}

// ID is the key's TUF key ID: 64 hex digits.
func (k Key) ID() (string, error) { return manifest.KeyID(k.public) }

var scheme = regexp.MustCompile(`^([a-z][a-z0-9-]*)://.`)

// Load opens a private key: a PEM file, `ssh-agent:SHA256:…`, or `NAME://…` for a KMS
// whose sigstore plugin `sigstore-kms-NAME` is installed. pass is asked only for an
// encrypted file. A wrong passphrase wraps ErrPassphrase, a missing file
// fs.ErrNotExist, a file that is no key cas.ErrCorrupt, and a key of the wrong kind
// fs.ErrInvalid. The context bounds the key's whole use, not only its loading.
func Load(ctx context.Context, uri string, pass PassFunc) (Key, error) {
	var k Key
	var err error
	switch {
	case strings.HasPrefix(uri, agentScheme):
		k, err = loadAgent(ctx, uri)
	case scheme.MatchString(uri):
		k, err = loadKMS(ctx, uri)
	default:
		k, err = loadPEM(ctx, uri, pass)
	}
	if err != nil {
		return Key{}, fmt.Errorf("key %s: %w", uri, err)
	}
	k.name = uri
	return k, nil
}

// LoadPublic opens the public half of a key: a .pub file (PEM or one OpenSSH line), or
// anything that Load takes.
func LoadPublic(ctx context.Context, uri string, pass PassFunc) (ed25519.PublicKey, error) {
	if !strings.HasPrefix(uri, agentScheme) && !scheme.MatchString(uri) {
		data, err := readKeyFile(uri)
		if err != nil {
			return nil, fmt.Errorf("key %s: %w", uri, err)
		}
		if public, err := parsePublic(data); !errors.Is(err, errNotPublic) {
			if err != nil {
				return nil, fmt.Errorf("key %s: %w", uri, err)
			}
			return public, nil
		}
	}
	k, err := Load(ctx, uri, pass)
	return k.public, err
}

// LoadListed opens a key that a root is to list: with its private half where uri has
// one, without it for a .pub file. Such a Key has no Signer.
func LoadListed(ctx context.Context, uri string, pass PassFunc) (Key, error) {
	k, err := Load(ctx, uri, pass)
	if errors.Is(err, errPublicGiven) {
		k.name = uri
		k.public, err = LoadPublic(ctx, uri, pass)
	}
	return k, err
}

// onlyEd25519 refuses every other kind of public key.
func onlyEd25519(public crypto.PublicKey) (ed25519.PublicKey, error) {
	key, ok := public.(ed25519.PublicKey)
	if !ok || len(key) != ed25519.PublicKeySize {
		return nil, invalid("%s key; only Ed25519 is accepted, make one with 'phase-sign key generate'", kindOf(public))
	}
	return key, nil
}

func kindOf(public crypto.PublicKey) string {
	kind := fmt.Sprintf("%T", public)
	kind = strings.TrimPrefix(kind, "*")
	if name, _, ok := strings.Cut(kind, "."); ok {
		return strings.ToUpper(name)
	}
	return kind
}
