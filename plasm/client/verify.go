package client

import (
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"hash"
	"io"
	"maps"
	"slices"

	"github.com/phaseboot/phaseboot/internal/refusal"
	"github.com/phaseboot/phaseboot/manifest"
	"github.com/phaseboot/phaseboot/plasm/api"
	"github.com/phaseboot/phaseboot/plasm/receipt"
)

// A hashed is a writer with the length and the digest of what was written.
type hashed struct {
	to     io.Writer
	hash   hash.Hash
	length int64
}

func newHashed(to io.Writer) *hashed { return &hashed{to: to, hash: sha256.New()} }

func (h *hashed) Write(p []byte) (int, error) {
	n, err := h.to.Write(p)
	h.hash.Write(p[:n])
	h.length += int64(n)
	return n, err
}

func (h *hashed) sum() string { return hex.EncodeToString(h.hash.Sum(nil)) }

// VerifiedReceipt returns the receipt of a job that is done. One that is not about this job, or not signed by
// the key that the machine says it has, wraps manifest.ErrUntrusted.
func (m Machine) VerifiedReceipt(ctx context.Context, job api.Job) ([]byte, error) {
	data, err := m.Client.Receipt(ctx, job.ID)
	if err != nil {
		return nil, err
	}
	_, err = m.verify(data, job)
	return data, err
}

// verify checks who signed a receipt, and that it is about a job as the daemon showed it.
func (m Machine) verify(data []byte, job api.Job) (receipt.Signed, error) {
	s, err := receipt.Parse(data)
	if err != nil {
		return s, err
	}
	key, err := hex.DecodeString(m.Status.Machine)
	if err != nil {
		return s, err
	}
	if err := s.Verify(ed25519.PublicKey(key)); err != nil && m.Status.Ephemeral {
		return s, refusal.New(err, "%v; the daemon has no --key, so it has another key since its last start", err)
	} else if err != nil {
		return s, err
	}
	if s.Run.ID != job.ID {
		return s, distrust("it is about another job, %.16q", s.Run.ID)
	}
	if s.Run.Reason != job.Reason || s.Run.ExitCode != job.ExitCode {
		return s, distrust("it states the end %q with exit code %d, and the machine %q with %d", s.Run.Reason, s.Run.ExitCode, job.Reason, job.ExitCode)
	}
	return s, nil
}

func distrust(format string, args ...any) error {
	return refusal.New(manifest.ErrUntrusted, "receipt: %s; do not rely on this machine", fmt.Sprintf(format, args...))
}

// check verifies a receipt: it must be signed by the key that the machine had when the job was submitted,
// and say what was asked for and what came back.
func (t Task) check(m Machine, job api.Job, data []byte, stdout, stderr *hashed) error {
	s, err := m.verify(data, job)
	if err != nil {
		return err
	}
	if err := t.about(s.Run); err != nil {
		return err
	}
	for name, got := range map[string]*hashed{receipt.Stdout: stdout, receipt.Stderr: stderr} {
		if out := s.Output(name); out.SHA256 != got.sum() || out.Length != got.length {
			return distrust("it states another %s than the %d bytes that came", name, got.length)
		}
	}
	return nil
}

// about compares what a receipt states with the task.
func (t Task) about(run receipt.Run) error {
	is, asked := run.Spec, t.Spec
	switch {
	case t.CID != "" && run.Module.CID != t.CID:
		return distrust("it is about another module, %q", run.Module.CID)
	case t.Module != nil && run.Module.SHA256 != t.Module.SHA256:
		return distrust("it is about another module, sha256 %q", run.Module.SHA256)
	case !run.Started.IsZero() && !run.Input.Begins(t.Input):
		return distrust("it is about another input, sha256 %s", run.Input.SHA256)
	case !slices.Equal(is.Args, asked.Args), !maps.Equal(is.Env, asked.Env):
		return distrust("it is about a job with other arguments")
	case is.Grants.Stdin != asked.Grants.Stdin, is.Grants.Scratch != asked.Grants.Scratch, is.Grants.Clock != asked.Grants.Clock,
		is.Grants.Random != asked.Grants.Random, !slices.Equal(is.Grants.Artifacts, asked.Grants.Artifacts):
		return distrust("it is about a job with other grants")
	}
	return nil
}
