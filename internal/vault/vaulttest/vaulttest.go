// Package vaulttest is a fake Vault for tests: the part of the transit engine's HTTP API that signing
// uses, as Vault documents it. Start at Serve.
package vaulttest

import (
	"bytes"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
)

// token is the only token that the fake accepts.
const token = "s.token"

// A Vault has the ed25519 key "release" in two versions, the key "ecdsa" of another type, and
// "moved", which answers with a redirect. Its methods may be called while it serves.
type Vault struct {
	mu       sync.Mutex
	versions []ed25519.PrivateKey // of release, oldest first
	wrong    bool
}

// Serve runs a Vault until the test ends, and sets the environment variables that name it.
func Serve(t *testing.T) *Vault {
	t.Helper()
	v := &Vault{}
	v.Rotate()
	v.Rotate()
	server := httptest.NewServer(v)
	t.Cleanup(server.Close)
	t.Setenv("VAULT_ADDR", server.URL)
	t.Setenv("VAULT_TOKEN", token)
	t.Setenv("HOME", t.TempDir())
	return v
}

// Rotate adds a version to the key and returns its public half.
func (v *Vault) Rotate() ed25519.PublicKey {
	v.mu.Lock()
	defer v.mu.Unlock()
	k := ed25519.NewKeyFromSeed(bytes.Repeat([]byte{byte(len(v.versions))}, ed25519.SeedSize))
	v.versions = append(v.versions, k)
	return public(k)
}

// Newest returns the public half of the key's newest version.
func (v *Vault) Newest() ed25519.PublicKey {
	v.mu.Lock()
	defer v.mu.Unlock()
	return public(v.versions[len(v.versions)-1])
}

// Corrupt makes all later signatures wrong.
func (v *Vault) Corrupt() {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.wrong = true
}

func (v *Vault) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if r.Header.Get("X-Vault-Token") != token {
		fail(w, http.StatusForbidden, "permission denied")
		return
	}
	switch r.Method + " " + strings.TrimPrefix(r.URL.Path, "/v1/transit/") {
	case "GET keys/release":
		v.describe(w)
	case "POST sign/release":
		v.sign(w, r)
	case "GET keys/ecdsa":
		reply(w, map[string]any{"type": "ecdsa-p256", "latest_version": 1})
	case "GET keys/moved":
		http.Redirect(w, r, "http://192.0.2.1/", http.StatusTemporaryRedirect)
	default:
		fail(w, http.StatusNotFound)
	}
}

func (v *Vault) describe(w http.ResponseWriter) {
	keys := map[string]any{}
	for i, k := range v.versions {
		keys[fmt.Sprint(i+1)] = map[string]string{"name": "ed25519", "public_key": base64.StdEncoding.EncodeToString(public(k))}
	}
	reply(w, map[string]any{"type": "ed25519", "latest_version": len(v.versions), "keys": keys, "supports_signing": true})
}

func (v *Vault) sign(w http.ResponseWriter, r *http.Request) {
	var body struct {
		Input   []byte `json:"input"`
		Version int    `json:"key_version"`
	}
	if err := json.NewDecoder(r.Body).Decode(&body); err != nil || body.Version < 1 || body.Version > len(v.versions) {
		fail(w, http.StatusBadRequest, "invalid key version")
		return
	}
	if v.wrong {
		body.Input = append(body.Input, '!')
	}
	sig := base64.StdEncoding.EncodeToString(ed25519.Sign(v.versions[body.Version-1], body.Input))
	reply(w, map[string]any{"key_version": body.Version, "signature": fmt.Sprintf("vault:v%d:%s", body.Version, sig)})
}

func public(k ed25519.PrivateKey) ed25519.PublicKey { return k.Public().(ed25519.PublicKey) }

func reply(w http.ResponseWriter, data any) {
	_ = json.NewEncoder(w).Encode(map[string]any{"request_id": "x", "data": data})
}

func fail(w http.ResponseWriter, status int, errors ...string) {
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(map[string]any{"errors": errors})
}
