package key

import (
	"cmp"
	"context"
	"crypto"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"strings"

	"github.com/sigstore/sigstore/pkg/signature"
	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"

	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/internal/ed25519pem"
	"github.com/phaseboot/phaseboot/internal/refusal"
)

// agentScheme begins the name of a key in an ssh agent. The rest of the name is the fingerprint
// that `ssh-add -l` prints.
const agentScheme = "ssh-agent:"

// errSK refuses a security key behind an ssh agent.
var errSK = refusal.Invalid("a security key (sk-) signs a wrapped message that no TUF client can check; use a plain ssh-ed25519 key")

// agentSigner signs with a key in the ssh agent that SSH_AUTH_SOCK names. It connects for each
// signature.
type agentSigner struct {
	ctx    context.Context // of the command: the agent may ask the user to confirm
	key    ssh.PublicKey
	public ed25519.PublicKey
}

func loadAgent(ctx context.Context, uri string) (Key, error) {
	want := strings.TrimPrefix(uri, agentScheme)
	if !strings.HasPrefix(want, "SHA256:") {
		return Key{}, refusal.Invalid("invalid name; write ssh-agent:SHA256:…, as 'ssh-add -l' prints it")
	}
	var found ssh.PublicKey
	err := withAgent(ctx, func(a agent.ExtendedAgent) error {
		keys, err := a.List()
		for _, key := range keys {
			if ssh.FingerprintSHA256(key) == want {
				found, err = ssh.ParsePublicKey(key.Blob)
			}
		}
		return err
	})
	if err != nil {
		return Key{}, err
	}
	if found == nil {
		return Key{}, refusal.New(fs.ErrNotExist, "the ssh agent does not have it; add it with ssh-add")
	}
	public, err := sshPublic(found)
	if err != nil {
		return Key{}, err
	}
	return Key{signer: &agentSigner{ctx: ctx, key: found, public: public}, public: public}, nil
}

// sshPublic returns the Ed25519 key in an OpenSSH public key.
func sshPublic(key ssh.PublicKey) (ed25519.PublicKey, error) {
	if strings.HasPrefix(key.Type(), "sk-") {
		return nil, errSK
	}
	if inner, ok := key.(ssh.CryptoPublicKey); ok {
		public, err := ed25519pem.Public(inner.CryptoPublicKey())
		return public, onlyEd25519(err)
	}
	return nil, refusal.Invalid("%.40q key; only ssh-ed25519 is accepted", key.Type())
}

// withAgent connects to the ssh agent and calls do. The connection closes when ctx ends.
func withAgent(ctx context.Context, do func(agent.ExtendedAgent) error) error {
	socket := os.Getenv("SSH_AUTH_SOCK")
	if socket == "" {
		return refusal.New(cas.ErrUnreachable, "no ssh agent; start one and set SSH_AUTH_SOCK")
	}
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", socket)
	if err != nil {
		return fmt.Errorf("ssh agent: %w (%w)", err, cas.ErrUnreachable)
	}
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	defer conn.Close()
	if err := do(agent.NewClient(conn)); err != nil {
		return fmt.Errorf("ssh agent: %w", cmp.Or(ctx.Err(), err))
	}
	return nil
}

// PublicKey implements signature.Signer.
func (s *agentSigner) PublicKey(...signature.PublicKeyOption) (crypto.PublicKey, error) {
	return s.public, nil
}

// SignMessage implements signature.Signer. The blob of an ssh-ed25519 signature is a plain
// Ed25519 signature (RFC 8709, section 6). It is verified before it is returned.
func (s *agentSigner) SignMessage(message io.Reader, _ ...signature.SignOption) ([]byte, error) {
	data, err := io.ReadAll(message)
	if err != nil {
		return nil, err
	}
	var blob []byte
	err = withAgent(s.ctx, func(a agent.ExtendedAgent) error {
		sig, err := a.Sign(s.key, data)
		if err != nil {
			return err
		}
		blob = sig.Blob
		return nil
	})
	if err != nil {
		return nil, err
	}
	if !ed25519.Verify(s.public, data, blob) {
		return nil, errors.New("ssh agent: wrong signature; check the agent, and sign again")
	}
	return blob, nil
}
