package vault

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"
)

const (
	timeout   = 30 * time.Second // of one request
	maxAnswer = 1 << 20          // bytes read of an answer
)

// An engine is the address of a transit engine and the token for it
// (https://developer.hashicorp.com/vault/api-docs/secret/transit).
type engine struct {
	url   *url.URL
	token string
}

// newEngine reads the environment variables of Vault's and sigstore's tools.
func newEngine() (engine, error) {
	addr := os.Getenv("VAULT_ADDR")
	u, err := url.Parse(addr)
	if err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http" {
		return engine{}, fmt.Errorf("VAULT_ADDR %.80q: set it to Vault's address, such as https://vault.example:8200", addr)
	}
	token := os.Getenv("VAULT_TOKEN")
	if home, err := os.UserHomeDir(); token == "" && err == nil {
		data, _ := os.ReadFile(filepath.Join(home, ".vault-token"))
		token = strings.TrimSpace(string(data))
	}
	if token == "" {
		return engine{}, errors.New("no Vault token; set VAULT_TOKEN or run 'vault login'")
	}
	return engine{u.JoinPath("v1", cmp.Or(os.Getenv("TRANSIT_SECRET_ENGINE_PATH"), "transit")), token}, nil
}

// call sends a request and reads the answer. A nil body is not sent.
func (e engine) call(ctx context.Context, method, path string, body, answer any) error {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	req, err := e.request(ctx, method, path, body)
	if err != nil {
		return err
	}
	// a redirect would send the token to another server
	client := http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	resp, err := client.Do(req)
	if err != nil {
		return fmt.Errorf("vault: %w", err)
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return fmt.Errorf("vault: %w", err)
	}
	return readAnswer(resp.StatusCode, data, answer)
}

// readAnswer reads the data of an answer with status 200. Another status is an error.
func readAnswer(status int, data []byte, answer any) error {
	if status != http.StatusOK {
		return refusal(status, data)
	}
	envelope := struct {
		Data any `json:"data"`
	}{answer}
	if err := json.Unmarshal(data, &envelope); err != nil {
		return errors.New("vault: its answer is not JSON")
	}
	return nil
}

// request builds a request with the token and the namespace.
func (e engine) request(ctx context.Context, method, path string, body any) (*http.Request, error) {
	var data []byte
	if body != nil {
		var err error
		if data, err = json.Marshal(body); err != nil {
			return nil, err
		}
	}
	req, err := http.NewRequestWithContext(ctx, method, e.url.JoinPath(path).String(), bytes.NewReader(data))
	if err != nil {
		return nil, err
	}
	req.Header.Set("X-Vault-Token", e.token)
	req.Header.Set("X-Vault-Request", "true")
	if ns := os.Getenv("VAULT_NAMESPACE"); ns != "" {
		req.Header.Set("X-Vault-Namespace", ns)
	}
	return req, nil
}

// refusal words an answer with another status than 200 for an operator.
func refusal(status int, data []byte) error {
	var answer struct {
		Errors []string `json:"errors"`
	}
	_ = json.Unmarshal(data, &answer) // a proxy may answer without JSON
	reason := fmt.Sprintf("vault: status %d %.200q", status, strings.Join(answer.Errors, "; "))
	switch status {
	case http.StatusNotFound:
		return fmt.Errorf("%s: no such key; %s", reason, makeKey)
	case http.StatusForbidden:
		return fmt.Errorf("%s: the token may not use this key; use another token", reason)
	}
	return errors.New(reason)
}
