package signer

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/dustin/go-humanize"

	"github.com/phaseboot/phaseboot/internal/file"
	"github.com/phaseboot/phaseboot/internal/refusal"
	"github.com/phaseboot/phaseboot/manifest"
)

// A Comparison is an artifact of a release and a file with the same bytes.
type Comparison struct {
	Role   string `json:"role"`
	File   string `json:"file"`
	Length int64  `json:"length"` // bytes
	SHA256 string `json:"sha256"`
}

// compareFiles compares every artifact of a release with the file ROLE of a folder, for example
// DIR/kernel and DIR/job/hello.wasm. When that file is missing, a file of the folder with another
// name and the right content is accepted.
func compareFiles(ctx context.Context, r manifest.Release, dir string, watch Watch) ([]Comparison, error) {
	var list []Comparison
	for _, a := range r.Artifacts {
		path, err := findArtifact(ctx, a, dir, watch)
		if err != nil {
			return nil, err
		}
		list = append(list, Comparison{a.Role, path, a.Length, a.SHA256})
	}
	return list, nil
}

// findArtifact returns the path of the file that is an artifact.
func findArtifact(ctx context.Context, a manifest.Artifact, dir string, watch Watch) (string, error) {
	path := filepath.Join(dir, filepath.FromSlash(a.Role))
	same, err := isArtifact(ctx, a, path, watch)
	switch {
	case err == nil && same == "":
		return path, nil
	case err == nil:
		return "", corrupt("%s: %s is not the file that was signed: %s; get the right one, or sign this one as another release", a.Role, path, same)
	case !errors.Is(err, fs.ErrNotExist):
		return "", err
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return "", fmt.Errorf("--artifacts %s: %w", dir, file.Advise(err))
	}
	for _, e := range entries {
		if info, err := e.Info(); err != nil || !info.Mode().IsRegular() || info.Size() != a.Length {
			continue
		}
		other := filepath.Join(dir, e.Name())
		if same, err := isArtifact(ctx, a, other, watch); err != nil || same == "" {
			return other, err
		}
	}
	return "", refusal.New(fs.ErrNotExist, "%s: not in %s, neither as %s nor under another name; name the folder that has it", a.Role, dir, path)
}

// isArtifact returns the difference of a file to an artifact for an operator, "" when there is none.
func isArtifact(ctx context.Context, a manifest.Artifact, path string, watch Watch) (string, error) {
	in, err := roleFile{a.Role, "artifacts", path}.open(false)
	if err != nil {
		return "", err
	}
	defer in.Close()
	if is := in.info.Size(); is != a.Length {
		return fmt.Sprintf("it has %s bytes, the release says %s", humanize.Comma(is), humanize.Comma(a.Length)), nil
	}
	r := io.NopCloser(io.Reader(in.File))
	if watch != nil {
		r = watch(path, a.Length, in.File)
	}
	defer r.Close()
	defer context.AfterFunc(ctx, func() { in.Close() })()
	sum := sha256.New()
	if _, err := io.Copy(sum, io.LimitReader(r, a.Length+1)); err != nil {
		return "", fmt.Errorf("%s: %w", in.words(), cmp.Or(ctx.Err(), file.Advise(err)))
	}
	if is := hex.EncodeToString(sum.Sum(nil)); is != a.SHA256 {
		return fmt.Sprintf("its SHA-256 is %.16s…, the release says %.16s…", is, a.SHA256), nil
	}
	return "", nil
}
