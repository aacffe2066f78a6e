package store

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

// CopyArtifact writes an artifact from a store to w and compares its sha256 with the
// manifest.
func CopyArtifact(ctx context.Context, w io.Writer, src cas.Source, a manifest.Artifact) error {
	sum := sha256.New()
	if err := cas.Copy(ctx, io.MultiWriter(w, sum), src, a.CID, a.Length); err != nil {
		return fmt.Errorf("artifact %s: %w", a.Role, err)
	}
	if digest := hex.EncodeToString(sum.Sum(nil)); digest != a.SHA256 {
		return Differs(a, "the copy in the store", "sha256", digest, a.SHA256)
	}
	return nil
}

// Differs is the error of a file that is not the artifact in the manifest. It wraps
// cas.ErrCorrupt.
func Differs(a manifest.Artifact, file, property, got, signed string) error {
	return fmt.Errorf("artifact %s: %s is not the file that was signed: its %s is %s, the manifest says %s; use the signed file or sign this one: %w",
		a.Role, file, property, got, signed, cas.ErrCorrupt)
}

// HashFile returns the sha256 of a file in hex.
func HashFile(ctx context.Context, path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	defer context.AfterFunc(ctx, func() { f.Close() })() // ends the copy
	sum := sha256.New()
	_, err = io.Copy(sum, f)
	if ctx.Err() != nil {
		err = ctx.Err()
	}
	return hex.EncodeToString(sum.Sum(nil)), err
}
