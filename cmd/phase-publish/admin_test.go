package main

import (
	"bytes"
	"crypto/ed25519"
	"encoding/hex"
	"errors"
	"testing"
	"time"

	"github.com/phaseboot/phaseboot/manifest"
	"github.com/phaseboot/phaseboot/plasm"
	"github.com/phaseboot/phaseboot/plasm/receipt"
)

// The admin page shows what plasm's own check has verified.
func TestAReceiptIsVerifiedForThePage(t *testing.T) {
	key := ed25519.NewKeyFromSeed(bytes.Repeat([]byte{7}, 32))
	job, err := plasm.NewJob(t.Context(), "hello.wasm", []byte("\x00asm\x01\x00\x00\x00"))
	if err != nil {
		t.Fatal(err)
	}
	started := time.Date(2026, 11, 30, 10, 0, 0, 0, time.UTC)
	signed, err := receipt.New(receipt.Facts{
		Job: job, Release: &manifest.Release{Channel: "stable", Arch: "x86_64", Version: "2026.11", Number: 3},
		Outcome: plasm.Outcome{Reason: plasm.ReasonExit, ExitCode: 4, Engine: plasm.EngineCompiler, EngineVersion: "1", Started: started, Run: 40 * time.Millisecond},
	}).Sign(key, false)
	if err != nil {
		t.Fatal(err)
	}
	for _, data := range [][]byte{signed.Bytes(), []byte("[  12.3] " + signed.Line() + "\n")} {
		r, err := readReceipt(data)
		if err != nil {
			t.Fatal(err)
		}
		if r.Machine != hex.EncodeToString(key.Public().(ed25519.PublicKey)) || r.Job != "hello.wasm" || r.Reason != "exit" || r.ExitCode != 4 || r.Channel != "stable" || r.Release != "2026.11" ||
			!r.Started.Equal(started) || r.Took != 40*time.Millisecond {
			t.Errorf("got %+v", r)
		}
	}
	altered := bytes.Replace([]byte(signed.Line()), []byte(`"exit_code":4`), []byte(`"exit_code":0`), 1)
	if _, err := readReceipt(altered); !errors.Is(err, manifest.ErrSignature) {
		t.Errorf("an altered receipt: %v", err)
	}
	if _, err := readReceipt([]byte("{}")); err == nil {
		t.Error("{} is a receipt")
	}
}
