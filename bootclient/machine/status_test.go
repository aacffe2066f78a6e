package machine

import (
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestStatusShowsTheLastAttempt(t *testing.T) {
	dir := t.TempDir()
	attempt := newReport(io.Discard)
	attempt.Begin("network").Done("eth0 192.0.2.7/24")
	_ = attempt.Begin("cache").Fail(errors.New("no disk"))
	attempt.Refuse("12D3\x1b[2J", "block", errors.New("wrong hash"))
	data, err := json.Marshal(attempt)
	if err != nil {
		t.Fatal(err)
	}
	report, reason := filepath.Join(dir, "report"), filepath.Join(dir, "reason")
	for file, text := range map[string][]byte{report: data, reason: []byte(refusalText(errors.New("resolve: no source")))} {
		if err := os.WriteFile(file, text, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	var out strings.Builder
	if err := status(&out, report, reason); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"clock    20", "memory   ", "network  ", "] network: eth0 192.0.2.7/24\n", "] cache: failed: no disk\n", "refused  block from 12D3", "boot refused: resolve: no source"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no %q in\n%s", want, out.String())
		}
	}
	if strings.Contains(out.String(), "\x1b") {
		t.Error("an escape reaches the terminal")
	}
	out.Reset()
	if err := status(&out, "/missing", "/missing"); err != nil || !strings.Contains(out.String(), "no attempt has failed") {
		t.Errorf("%v in %q", err, out.String())
	}
}
