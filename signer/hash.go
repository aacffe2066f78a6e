package signer

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"

	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/manifest"
)

// A Watch sees the bytes of a file go by, for a progress bar; nil watches nothing.
// Closing the reader ends the file.
type Watch func(path string, size int64, r io.Reader) io.ReadCloser

// hashFile chunks and hashes one file in a single pass, so that the CID and the
// SHA-256 are of the same bytes. An empty file, and one that changes meanwhile, wrap
// cas.ErrCorrupt.
func hashFile(ctx context.Context, f input, chunker string, watch Watch) (manifest.Artifact, error) {
	r := io.NopCloser(io.Reader(f.File))
	if watch != nil {
		r = watch(f.path, f.info.Size(), f.File)
	}
	defer r.Close()
	defer context.AfterFunc(ctx, func() { f.Close() })() // a pipe may never say another word
	sum := sha256.New()
	file, err := cas.FileCID(ctx, io.TeeReader(r, sum), chunker)
	switch {
	case err != nil:
		return manifest.Artifact{}, fmt.Errorf("%s: %w", f.words(), firstErr(ctx.Err(), advise(err)))
	case file.Size == 0:
		return manifest.Artifact{}, corrupt("%s: the file is empty; build it again", f.words())
	}
	if err := f.unchanged(); err != nil {
		return manifest.Artifact{}, err
	}
	return manifest.Artifact{
		Role: f.role, Length: file.Size, SHA256: hex.EncodeToString(sum.Sum(nil)),
		CID: file.CID, Chunker: chunker,
	}, nil
}
