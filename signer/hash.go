package signer

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"

	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/manifest"
)

// A Watch sees the bytes of a file go by, for a progress bar; nil watches nothing.
// Closing the reader ends the file.
type Watch func(path string, size int64, r io.Reader) io.ReadCloser

// hashFile chunks and hashes one file in a single pass, so that the CID and the
// SHA-256 are of the same bytes. An empty file wraps cas.ErrCorrupt.
func hashFile(ctx context.Context, role, path, chunker string, watch Watch) (manifest.Artifact, error) {
	f, err := os.Open(path)
	if err != nil {
		return manifest.Artifact{}, fmt.Errorf("%s %s: %w", role, path, advise(err))
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return manifest.Artifact{}, fmt.Errorf("%s %s: %w", role, path, pathless(err))
	}
	r := io.NopCloser(io.Reader(f))
	if watch != nil {
		r = watch(path, info.Size(), f)
	}
	defer r.Close()
	defer context.AfterFunc(ctx, func() { f.Close() })() // a pipe may never say another word
	sum := sha256.New()
	file, err := cas.FileCID(ctx, io.TeeReader(r, sum), chunker)
	switch {
	case err != nil:
		return manifest.Artifact{}, fmt.Errorf("%s %s: %w", role, path, firstErr(ctx.Err(), advise(err)))
	case file.Size == 0:
		return manifest.Artifact{}, fmt.Errorf("%s %s: the file is empty (%w); build it again", role, path, cas.ErrCorrupt)
	}
	return manifest.Artifact{
		Role: role, Length: file.Size, SHA256: hex.EncodeToString(sum.Sum(nil)),
		CID: file.CID, Chunker: chunker,
	}, nil
}
