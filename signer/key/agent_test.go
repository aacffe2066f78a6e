package key

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"errors"
	"io/fs"
	"net"
	"path/filepath"
	"testing"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"

	"github.com/phaseboot/phaseboot/cas"
)

// serveAgent runs OpenSSH's protocol on a socket, with the given private keys.
func serveAgent(t *testing.T, keys ...any) {
	t.Helper()
	ring := agent.NewKeyring()
	for _, key := range keys {
		if err := ring.Add(agent.AddedKey{PrivateKey: key}); err != nil {
			t.Fatal(err)
		}
	}
	socket := filepath.Join(t.TempDir(), "agent")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				_ = agent.ServeAgent(ring, conn) // ends with io.EOF
			}()
		}
	}()
	t.Setenv("SSH_AUTH_SOCK", socket)
}

func fingerprint(t *testing.T, public any) string {
	t.Helper()
	key, err := ssh.NewPublicKey(public)
	if err != nil {
		t.Fatal(err)
	}
	return agentScheme + ssh.FingerprintSHA256(key)
}

func TestAgentKeySignsPlainEd25519(t *testing.T) {
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	serveAgent(t, private)
	k, err := Load(t.Context(), fingerprint(t, public), nil)
	if err != nil {
		t.Fatal(err)
	}
	sig, err := k.Signer().SignMessage(bytes.NewReader([]byte("release")))
	if err != nil || !ed25519.Verify(public, []byte("release"), sig) {
		t.Fatalf("signature %x, %v", sig, err)
	}
	if _, err := k.Private(); !errors.Is(err, fs.ErrInvalid) {
		t.Errorf("private half of an agent key: %v", err)
	}
}

func TestAgentRefusals(t *testing.T) {
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	other, _, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	serveAgent(t, rsaKey)
	if _, err := Load(t.Context(), fingerprint(t, rsaKey.Public()), nil); !errors.Is(err, fs.ErrInvalid) {
		t.Errorf("RSA key: %v", err)
	}
	if _, err := Load(t.Context(), fingerprint(t, other), nil); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("key that the agent lacks: %v", err)
	}
	t.Setenv("SSH_AUTH_SOCK", filepath.Join(t.TempDir(), "missing"))
	if _, err := Load(t.Context(), fingerprint(t, other), nil); !errors.Is(err, cas.ErrUnreachable) {
		t.Errorf("no agent: %v", err)
	}
}

func TestSecurityKeyIsRefusedWithTheReason(t *testing.T) {
	// The wire form of an sk-ssh-ed25519 key (OpenSSH PROTOCOL.u2f).
	blob := ssh.Marshal(struct {
		Type        string
		Key         []byte
		Application string
	}{"sk-ssh-ed25519@openssh.com", make([]byte, ed25519.PublicKeySize), "ssh:"})
	key, err := ssh.ParsePublicKey(blob)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := sshPublic(key); !errors.Is(err, errSK) {
		t.Errorf("got %v", err)
	}
}
