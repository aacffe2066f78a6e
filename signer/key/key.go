package key

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"regexp"
	"strings"

	"github.com/sigstore/sigstore/pkg/signature"

	"github.com/phaseboot/phaseboot/internal/ed25519pem"
	"github.com/phaseboot/phaseboot/internal/refusal"
	"github.com/phaseboot/phaseboot/manifest"
)

var (
	// ErrPassphrase says that a passphrase does not decrypt its key.
	ErrPassphrase = errors.New("wrong passphrase")
	// ErrNoPassphrase says that a key needs a passphrase and none can be obtained.
	ErrNoPassphrase = errors.New("no passphrase")
)

// errPrivate answers a request for the private key of an agent or a KMS.
var errPrivate = refusal.Invalid("the private key does not leave its agent or KMS; name a PEM file")

// A Key signs with Ed25519 (RFC 8032), or only lists a public key. The zero Key is not valid;
// see Load.
type Key struct {
	name    string
	signer  signature.Signer
	public  ed25519.PublicKey
	private ed25519.PrivateKey // nil for a key in an agent or a KMS
}

// Name is the path or URI that the key was loaded from.
func (k Key) Name() string { return k.name }

// Signer signs TUF metadata. It is nil when only the public key was loaded.
func (k Key) Signer() signature.Signer { return k.signer }

// Public is the public key.
func (k Key) Public() ed25519.PublicKey { return k.public }

// Private is the private key, for signatures outside TUF (IPNS records). Only PEM files have
// one; for other keys the error wraps fs.ErrInvalid.
func (k Key) Private() (ed25519.PrivateKey, error) {
	if k.private == nil {
		return nil, fmt.Errorf("key %s: %w", k.name, errPrivate)
	}
	return k.private, nil
}

// ID is the key's TUF key ID: 64 hex digits.
func (k Key) ID() string { return manifest.KeyID(k.public) }

var scheme = regexp.MustCompile(`^([a-z][a-z0-9-]*)://.`)

// isFile reports whether a key name is a path, and not the URI of an agent or a KMS.
func isFile(uri string) bool {
	return !strings.HasPrefix(uri, agentScheme) && !scheme.MatchString(uri)
}

// Load opens a private key: a PEM file, `ssh-agent:SHA256:…`, or `NAME://…` for a KMS whose
// sigstore plugin `sigstore-kms-NAME` is installed. pass is called only for an encrypted file.
// A wrong passphrase wraps ErrPassphrase, a missing file fs.ErrNotExist, a file that is not a
// key cas.ErrCorrupt, and a key of another kind fs.ErrInvalid. ctx must stay valid as long as
// the key is used.
func Load(ctx context.Context, uri string, pass PassFunc) (Key, error) {
	var k Key
	var err error
	switch {
	case isFile(uri):
		k, err = loadPEM(ctx, uri, pass)
	case strings.HasPrefix(uri, agentScheme):
		k, err = loadAgent(ctx, uri)
	default:
		k, err = loadKMS(ctx, uri)
	}
	if err != nil {
		return Key{}, fmt.Errorf("key %s: %w", uri, err)
	}
	k.name = uri
	return k, nil
}

// LoadPublic opens a public key: a .pub file (PEM or one OpenSSH line), or the public half of
// a key that Load accepts.
func LoadPublic(ctx context.Context, uri string, pass PassFunc) (ed25519.PublicKey, error) {
	if isFile(uri) {
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

// LoadListed opens a key that a root will list. A .pub file gives a Key without a signer.
func LoadListed(ctx context.Context, uri string, pass PassFunc) (Key, error) {
	k, err := Load(ctx, uri, pass)
	if errors.Is(err, errPublicGiven) {
		k.name = uri
		k.public, err = LoadPublic(ctx, uri, pass)
	}
	return k, err
}

// onlyEd25519 words the refusal of a key of another kind for an operator.
func onlyEd25519(err error) error {
	if other := new(ed25519pem.KindError); errors.As(err, &other) {
		return refusal.Invalid("%s key; only Ed25519 is accepted, make one with 'phase-sign key generate'", other.Kind)
	}
	return err
}
