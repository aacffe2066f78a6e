package signer

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"

	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/internal/file"
	"github.com/phaseboot/phaseboot/internal/refusal"
	"github.com/phaseboot/phaseboot/manifest"
)

// A Watch returns a reader through which a file is read, for a progress bar. Closing that reader
// ends the file. A nil Watch is not called.
type Watch func(path string, size int64, r io.Reader) io.ReadCloser

// hashFile chunks and hashes a file in one pass, so that the CID and the SHA-256 are of the same
// bytes. An empty file and a file that changes meanwhile wrap cas.ErrCorrupt.
func hashFile(ctx context.Context, f input, chunker string, watch Watch) (manifest.Artifact, error) {
	r := io.NopCloser(io.Reader(f.File))
	if watch != nil {
		r = watch(f.path, f.info.Size(), f.File)
	}
	defer r.Close()
	defer context.AfterFunc(ctx, func() { f.Close() })() // reading a pipe may block for ever
	sum := sha256.New()
	sums, err := cas.FileCID(ctx, r, chunker, sum)
	switch {
	case err != nil:
		return manifest.Artifact{}, fmt.Errorf("%s: %w", f.words(), cmp.Or(ctx.Err(), file.Advise(err)))
	case sums.Size == 0:
		return manifest.Artifact{}, corrupt("%s: the file is empty; build it again", f.words())
	}
	if err := f.unchanged(); err != nil {
		return manifest.Artifact{}, err
	}
	return manifest.Artifact{
		Role: f.role, Length: sums.Size, SHA256: hex.EncodeToString(sum.Sum(nil)),
		CID: sums.CID, Chunker: chunker,
	}, nil
}

// corrupt refuses bytes that are not what they must be: exit code 5.
func corrupt(format string, args ...any) error {
	return refusal.New(cas.ErrCorrupt, format, args...)
}
