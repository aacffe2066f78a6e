package vault

import (
	"bytes"
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

// An engine is a transit engine and the right to use it, over its HTTP API
// (https://developer.hashicorp.com/vault/api-docs/secret/transit).
type engine struct {
	url   *url.URL
	token string
}

// newEngine reads the environment that Vault's and sigstore's tools read.
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
	mount := os.Getenv("TRANSIT_SECRET_ENGINE_PATH")
	if mount == "" {
		mount = "transit"
	}
	return engine{u.JoinPath("v1", mount), token}, nil
}

// call asks one thing, with a body unless it is nil, and reads the answer.
func (e engine) call(ctx context.Context, method, path string, body, answer any) error {
	status, data, err := e.ask(ctx, method, path, body)
	if err != nil {
		return err
	}
	return readAnswer(status, data, answer)
}

// ask returns the status and the body of an answer.
func (e engine) ask(ctx context.Context, method, path string, body any) (int, []byte, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	req, err := e.request(ctx, method, path, body)
	if err != nil {
		return 0, nil, err
	}
	// a redirection would carry the token to wherever it points
	client := http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	resp, err := client.Do(req)
	if err != nil {
		return 0, nil, fmt.Errorf("vault: %w", err)
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return 0, nil, fmt.Errorf("vault: %w", err)
	}
	return resp.StatusCode, data, nil
}

// readAnswer reads an answer, or words the refusal that it is.
func readAnswer(status int, data []byte, answer any) error {
	if status != http.StatusOK {
		return refusal(status, data)
	}
	return payload(data, answer)
}

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

// refusal words an answer that is none.
func refusal(status int, data []byte) error {
	var said struct {
		Errors []string `json:"errors"`
	}
	_ = json.Unmarshal(data, &said) // a proxy may answer in words of its own
	reason := fmt.Sprintf("vault: status %d %.200q", status, strings.Join(said.Errors, "; "))
	switch status {
	case http.StatusNotFound:
		return fmt.Errorf("%s: no such key; %s", reason, makeKey)
	case http.StatusForbidden:
		return fmt.Errorf("%s: the token may not use this key", reason)
	}
	return errors.New(reason)
}

// payload reads the data of an answer.
func payload(data []byte, answer any) error {
	envelope := struct {
		Data any `json:"data"`
	}{answer}
	if err := json.Unmarshal(data, &envelope); err != nil {
		return errors.New("vault: its answer is not JSON")
	}
	return nil
}
