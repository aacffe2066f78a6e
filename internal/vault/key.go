package vault

import (
	"context"
	"crypto/ed25519"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"strconv"
	"strings"
)

const makeKey = "make it with 'vault write transit/keys/NAME type=ed25519'"

var keyName = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}$`)

// A key is the newest version of one key of a transit engine.
type key struct {
	engine  engine
	name    string
	version int
	public  ed25519.PublicKey
}

// load reads the newest version of a key and its public half from the engine.
func load(ctx context.Context, name string) (*key, error) {
	if !keyName.MatchString(name) {
		return nil, errors.New("invalid key name; write hashivault://NAME, the name of a key in Vault's transit engine")
	}
	e, err := newEngine()
	if err != nil {
		return nil, err
	}
	var answer keyAnswer
	if err := e.call(ctx, http.MethodGet, "keys/"+name, nil, &answer); err != nil {
		return nil, err
	}
	public, err := answer.newest()
	if err != nil {
		return nil, err
	}
	return &key{e, name, answer.Latest, public}, nil
}

// A keyAnswer is the engine's description of a key.
type keyAnswer struct {
	Type   string `json:"type"`
	Latest int    `json:"latest_version"`
	Keys   map[string]struct {
		Public string `json:"public_key"`
	} `json:"keys"`
}

// newest returns the public half of the newest version.
func (a keyAnswer) newest() (ed25519.PublicKey, error) {
	if a.Type != algorithm {
		return nil, fmt.Errorf("vault: a key of type %.40q; only ed25519 is accepted: %s", a.Type, makeKey)
	}
	public, err := base64.StdEncoding.DecodeString(a.Keys[strconv.Itoa(a.Latest)].Public)
	if err != nil || len(public) != ed25519.PublicKeySize {
		return nil, fmt.Errorf("vault: version %d of the key has no public half of 32 bytes", a.Latest)
	}
	return public, nil
}

// sign signs a message and verifies the signature.
func (k *key) sign(ctx context.Context, message []byte) ([]byte, error) {
	var answer signatureAnswer
	body := map[string]any{"input": message, "key_version": k.version} // bytes become base64
	if err := k.engine.call(ctx, http.MethodPost, "sign/"+k.name, body, &answer); err != nil {
		return nil, err
	}
	return answer.verified(k, message)
}

// A signatureAnswer has a signature as vault:vVERSION:BASE64.
type signatureAnswer struct {
	Signature string `json:"signature"`
}

// verified returns the signature if the loaded version of the key has made it.
func (a signatureAnswer) verified(k *key, message []byte) ([]byte, error) {
	text, _ := strings.CutPrefix(a.Signature, fmt.Sprintf("vault:v%d:", k.version))
	sig, err := base64.StdEncoding.DecodeString(text)
	if err != nil || !ed25519.Verify(k.public, message, sig) {
		return nil, errors.New("vault: wrong signature; try again")
	}
	return sig, nil
}
